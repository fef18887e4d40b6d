"""``lesa export``: write backbone and FPN of a detector, normalisation included, by torch.export (.pt2) and as ONNX.

The files take RGB images (N, 3, H, W) with values from 0 to 255, any N, and any H and W that are multiples of
32 of at least 96; they give p2 … p6. With --whole-detector, a TorchScript file takes one RGB image (3, H, W) of any
size and gives boxes, scores, classes and masks. What is written has been checked against PyTorch.
"""

import argparse
from collections.abc import Sequence

from ..engine.folder import make_folder
from ..tools.export import FORMATS, export_backbone, export_detector, load_detector
from ..tools.export.backbone import DTYPES
from . import description

EPILOG = """
examples:
  lesa export --config-file output/quickstart/lesa/config.yaml --output output/export
  lesa export --config-file mask_rcnn_lesa_r50 --weights model_final.pth \\
      --output output/export --format onnx --image-size 1024 1024
"""


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="lesa export",
        description=description(__doc__),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="X", help="of either kind, or a zoo's name")
    parser.add_argument("--weights", default="", metavar="F", help="default: the last of the config's run")
    parser.add_argument("--untrained", action="store_true", help="export initial values, to try things out")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder of backbone.pt2, backbone.onnx, detector.ts"
    )
    parser.add_argument("--format", nargs="+", choices=FORMATS, help="of backbone and FPN (default: all)")
    parser.add_argument(
        "--whole-detector", action="store_true", help="write detector.ts instead (TorchScript)"
    )
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        default=(256, 320),
        metavar=("H", "W"),
        help="the size that is traced, and checked beside others; the files take any (default: 256 320)",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the images (default: float32)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)
    if args.whole_detector and args.format:
        parser.error("--format is for backbone and FPN; --whole-detector writes TorchScript alone")
    return args


def main(arguments: Sequence[str]) -> int:
    """Export, print how far the files are from PyTorch, and return the exit status."""
    args = parse_args(arguments)
    model = load_detector(args.config_file, args.weights, args.opts, args.untrained)
    folder = make_folder(args.output, "--output")
    size = tuple(args.image_size)
    if args.whole_detector:
        exported = [export_detector(model, folder, size, args.dtype)]
    else:
        exported = export_backbone(model, folder, args.format or list(FORMATS), size, args.dtype)
    print("Largest differences from PyTorch, as shares of an output's largest value:")
    for result in exported:
        print(f"\n{result.file}\n{result.comparison}")
    return 0
