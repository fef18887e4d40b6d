"""``lesa inspect``: show what the unary and the binary term contribute.

Writes terms.md, terms.json and terms.png (per layer), and for the first images a picture of the maps.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from ..config.lazy import apply_overrides, config_path, read_config
from ..config.settings import check_settings
from ..data.pictures import read_picture
from ..engine import Classification, evaluate, last_checkpoint, load_evaluated, separate_overrides
from ..engine.device import settle
from ..engine.folder import make_folder
from ..engine.run import derive
from ..errors import ConfigError, LesaError
from ..layers.attention.reference import OwnPosition
from ..tools.analysis import (
    Accuracy,
    ImageReader,
    draw_heads,
    draw_term_maps,
    find_images,
    inspect_terms,
    layer_maps,
    plot_terms,
    without_own_position,
)
from ..tools.analysis.image_reader import Point
from ..tools.analysis.term_maps import choose_layers
from ..tools.analysis.terms import PLOT_FILE
from . import description

EXAMPLES = """
examples:
  lesa inspect --config-file configs/quickstart_lesa.py --images DIR
  lesa inspect --config-file configs/mask_rcnn_lesa_r50.py --weights FILE.pth \\
      --images a.jpg b.jpg --position 320 200 --position 40 60 --layers res4.1 res5.2
"""


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for, and return the exit status."""
    args = parse_args(arguments)
    files = evenly(find_images(args.images), args.limit)
    if args.click:
        check_display()
    cfg, model = load_model(args)
    reader = ImageReader(model, instantiate(cfg.dataloader.test.mapper), model.input_format)
    output = make_folder(args.output or Path(cfg.train.output_dir) / "terms", "--output")
    draw_maps(
        args, model.backbone, reader, files[: args.maps], output
    )  # first, so that wrong positions are reported at once
    batches = (reader.read(file).batch for file in files)
    report = inspect_terms(model.backbone, batches, total=len(files))
    if args.accuracy:
        report = replace(report, accuracy=accuracy(cfg, model, args.own_position))
    report.save(output)
    plot_terms(report, output / PLOT_FILE)
    print(f"\n{report.text()}\n\nTable, numbers and plot: {output}")
    return 0


def load_model(args: argparse.Namespace) -> tuple[DictConfig, Any]:
    """Load the config and its trained model, in eval mode.

    Raises:
        ConfigError: there are no trained weights, or ``--accuracy`` is given for a detector.
    """
    written = read_config(config_path(args.config_file))
    cfg = copy.deepcopy(written)
    apply_overrides(cfg, args.opts)
    check_settings(cfg, sections=("train",))
    if args.accuracy:
        if cfg.train.task != Classification.name:
            raise ConfigError(
                "--accuracy and --data are for classifiers, and this is the config of a detector"
            )
        derive(cfg, Classification(), written, args)
    settle(cfg)
    weights = args.weights or last_checkpoint(cfg.train.output_dir)
    if not weights:
        raise ConfigError(
            f"trained weights are needed: train.output_dir={cfg.train.output_dir} holds no checkpoint; give "
            "--weights FILE, or the train.output_dir of a run"
        )
    model, report = load_evaluated(cfg, weights)
    print(f"Weights: {report.path}")
    return cfg, model


def accuracy(cfg: DictConfig, model: nn.Module, own_position: OwnPosition) -> Accuracy:
    """Compute top-1 on the config's validation pictures, as trained and without attention to own positions."""
    as_trained = evaluate(cfg, model)["accuracy"]["top1"]
    with without_own_position(model, own_position):
        return Accuracy(as_trained, evaluate(cfg, model)["accuracy"]["top1"], own_position)


def evenly(files: list[Path], limit: int | None) -> list[Path]:
    """Return at most ``limit`` files, evenly chosen from the list."""
    if limit is None or len(files) <= limit:
        return files
    return [files[index * len(files) // limit] for index in range(limit)]


def draw_maps(
    args: argparse.Namespace, backbone: nn.Module, reader: ImageReader, files: list[Path], output: Path
) -> None:
    """Draw for every file the maps and, if asked for, the heads of each position."""
    labels = choose_layers(backbone, args.layers)
    for index, file in enumerate(files, start=1):
        seen = reader.read(file)
        positions = [*args.position, *([click(file)] if args.click else [])]
        points = [reader.locate(seen, position) for position in positions]
        layers = [maps for maps in layer_maps(backbone, seen.batch, points) if maps.layer.label in labels]
        name = f"{index}_{file.stem}"  # the number tells files of the same stem apart
        print(draw_term_maps(seen, layers, points, output / f"maps_{name}.png"))
        for number in range(len(points) if args.heads else 0):
            print(draw_heads(seen, layers, points, number, output / f"heads_{name}_{number + 1}.png"))


def check_display() -> None:
    """Check that matplotlib can open a window.

    Raises:
        LesaError: it cannot.
    """
    from matplotlib import pyplot

    figure = pyplot.figure()
    toolkit = figure.canvas.required_interactive_framework
    pyplot.close(figure)
    if toolkit in (None, "headless"):
        raise LesaError(
            "--click needs a display and one of matplotlib's window toolkits (such as Tk or Qt), found none "
            f"(matplotlib draws by {pyplot.get_backend()!r}); give --position X Y instead"
        )


def click(file: Path) -> Point:
    """Show the picture in a window, and return the position (x, y) of one click in its pixels.

    Raises:
        LesaError: the window was closed without a click.
    """
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(layout="constrained")
    axis.imshow(read_picture(file))
    axis.set(title=f"{file.name}: click a position", xticks=[], yticks=[])
    clicks = figure.ginput(1, timeout=0)
    pyplot.close(figure)
    if not clicks:
        raise LesaError(f"the window of {file} was closed without a click on the picture")
    return clicks[0]


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="lesa inspect",
        description=description(__doc__),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", required=True, help="of the model")
    add("--weights", help="checkpoint; default: the last one of train.output_dir")
    add("--images", nargs="+", required=True, metavar="PATH", help="images, or folders of them")
    add("--output", type=Path, metavar="DIR", help="default: terms/ in train.output_dir")
    add("--maps", type=int, default=4, metavar="N", help="images to draw maps of, the first ones; default: 4")
    add(
        "--layers",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="rows of the maps, such as res4.1; default: all",
    )
    add("--heads", action="store_true", help="also draw the attention of every position head by head")
    add(
        "--position",
        nargs=2,
        type=float,
        action="append",
        default=[],
        metavar=("X", "Y"),
        help="draw the attention of this position, in pixels of the file's picture; may be repeated",
    )
    add("--limit", type=int, metavar="N", help="look at N images only, evenly chosen; default: all")
    add("--accuracy", action="store_true", help="classifiers: also top-1, and without own positions")
    add(
        "--own-position",
        choices=("dropped", "masked"),
        default="dropped",
        help="how --accuracy leaves it out: dropped, only its term, as in the paper's Table 1 (default), or masked, "
        "so that the weights of the others sum to one again",
    )
    add("--data", metavar="DIR", help="evaluate on DIR/val/CLASS/*.jpg; implies --accuracy")
    add("--click", action="store_true", help="ask for a position on every picture that is drawn")
    add("opts", nargs="*", default=[], metavar="key=value", help="overrides of the config")
    args = parser.parse_args(arguments)
    separate_overrides(args, args.images, args.layers)
    if args.maps < 0:
        parser.error(f"--maps must be 0 or more, got {args.maps}")
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit must be at least 1, got {args.limit}")
    args.accuracy |= args.data is not None
    if args.heads and not (args.position or args.click):
        parser.error("--heads draws the attention of a position: give --position X Y or --click")
    if not args.images:
        parser.error("--images needs at least one image or folder")
    args.eval_only = True
    return args
