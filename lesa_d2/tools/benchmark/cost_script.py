"""The command ``benchmark.py cost``: what a config's model costs at a size and batch."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

from ...config import load_config
from ...config.settings import check_settings
from ...errors import ConfigError, exit_status
from .cost import cost_table, memory_table, section_costs
from .fit import GIB, fit, fit_text, largest_size
from .memory import MeasuredModel, Setting

EXAMPLES = """
examples:
  python projects/LESA/benchmark.py cost --config-file configs/mask_rcnn_lesa_r50.py
  python projects/LESA/benchmark.py cost --config-file configs/htc_lesa_dconv_wr50_20e_1280.py --memory 24
  python projects/LESA/benchmark.py cost --config-file configs/imagenet_lesa_r50.py --batch 32
"""


def run_cost_command(arguments: Sequence[str]) -> int:
    """Print the tables that ``arguments`` ask for; return the exit status, 2 for a user's error."""
    args = _parser().parse_args(arguments)
    return exit_status(lambda: print(cost_report(args)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py cost",
        description="Parameters and FLOPs by section, and an estimate of memory.",
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
    """Return the tables as Markdown.

    Raises:
        LesaError: arguments out of range, a config with wrong values, or a model that cannot be run.
    """
    _check(args)
    cfg = load_config(args.config_file, args.opts)
    check_settings(cfg)
    training = args.mode == "training"
    height, width = size = tuple(args.image_size or largest_size(cfg, training))
    setting = Setting(MeasuredModel(cfg, training), size, args.batch, cfg.train.accumulate if training else 1)
    padded = setting.measured.padded(size)
    title = f"{args.config_file}, {args.batch} image(s) of {height}×{width}, {args.mode}"
    if padded != size:
        title += f", padded to {padded[0]}×{padded[1]} as the model does"
    sections = [title, cost_table(section_costs(replace(setting, accumulate=1)))]
    if training:
        sections.append("A training step computes about three times the forward pass.")
    sections.append(memory_table(setting.memory()))
    if args.memory is not None:
        budget = round(args.memory * GIB)
        sections.append(fit_text(fit(setting, budget), budget))
    return "\n\n".join(sections)


def _check(args: argparse.Namespace) -> None:
    if args.batch < 1:
        raise ConfigError(f"--batch must be at least 1, got {args.batch}")
    if args.image_size and min(args.image_size) < 32:
        raise ConfigError(f"--image-size must be at least 32 pixels a side, got {args.image_size}")
    if args.memory is not None and not (args.memory > 0 and math.isfinite(args.memory)):
        raise ConfigError(f"--memory must be a finite, positive number of GiB, got {args.memory:g}")
