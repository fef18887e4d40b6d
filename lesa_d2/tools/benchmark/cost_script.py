"""The command ``benchmark.py cost``: what a config's model costs at a size and batch, without running it."""

import argparse
import math
import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from ...config import load_config
from ...config.settings import check_settings
from ...errors import ConfigError, LesaError
from .budget import GIB, Setting, estimate, fit, largest_size
from .cost import cost_table, part_costs

EXAMPLES = """
examples:
  python projects/LESA/benchmark.py cost --config-file configs/mask_rcnn_lesa_r50.py
  python projects/LESA/benchmark.py cost --config-file configs/htc_lesa_dconv_wr50_20e_1280.py --memory 24
  python projects/LESA/benchmark.py cost --config-file configs/imagenet_lesa_r50.py --batch 32
"""


def run_cost_command(arguments: Sequence[str]) -> int:
    """Print the tables that ``arguments`` ask for; returns the exit status, 2 for a user's error."""
    args = _parser().parse_args(arguments)
    try:
        print(cost_report(args))
    except LesaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py cost",
        description="Parameters and FLOP by part, and an estimate of memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a config of configs/, or a saved one"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="in pixels; default: the largest of the config",
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images a step on one device (1)")
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="of the device, in GiB; says what would make it fit"
    )
    parser.add_argument("--mode", choices=("training", "inference"), default="training")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser


def cost_report(args: argparse.Namespace) -> str:
    """Markdown.

    Raises:
        LesaError: arguments out of range, or a config whose cost is not known.
    """
    _check(args)
    cfg = load_config(args.config_file, args.opts)
    training = args.mode == "training"
    height, width = size = tuple(args.image_size or largest_size(cfg, training))
    setting = Setting(cfg, training, size, args.batch, OmegaConf.select(cfg, "train.accumulate"))
    padded = setting.padded()  # a model of unknown kind is refused for that, whatever its other values
    check_settings(cfg)
    regions = setting.regions()
    costs = part_costs(setting.build, size, args.batch, regions)
    seen = f"{args.batch} image(s) of {height}×{width}, {args.mode}"
    if padded != size:
        seen += f", padded to {padded[0]}×{padded[1]} as the model does"
    if regions is not None:
        seen += f", {regions.boxes} regions and {regions.masks} masks an image"
    sections = [f"{args.config_file}, {seen}", cost_table(costs)]
    if training:
        sections.append("A training step computes about three times the forward pass.")
    sections.append(estimate(setting).table())
    if args.memory is not None:
        sections.append(fit(setting, round(args.memory * GIB)).text())
    return "\n\n".join(sections)


def _check(args: argparse.Namespace) -> None:
    if args.batch < 1:
        raise ConfigError(f"--batch must be at least 1, got {args.batch}")
    if args.image_size and min(args.image_size) < 32:
        raise ConfigError(f"--image-size must be at least 32 pixels a side, got {args.image_size}")
    if args.memory is not None and not (args.memory > 0 and math.isfinite(args.memory)):
        raise ConfigError(f"--memory must be a finite, positive number of GiB, got {args.memory:g}")
