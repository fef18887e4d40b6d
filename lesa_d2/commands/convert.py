"""``lesa convert``: convert the authors' or torchvision's checkpoints to ours, or our classifier to a detector's start.

Prints a summary, and lists every tensor in a .txt beside the result.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint import CONVERSIONS, convert_file

EPILOG = """
kinds of SRC:
  official-imagenet     the authors' ImageNet classifier -> ours
  official-detector     the authors' Mask R-CNN or Hybrid Task Cascade -> ours
  torchvision           torchvision's ResNets, Wide ResNets and ResNeXts with bottleneck blocks (resnet50 and
                        deeper) -> our classifier with operator "conv"
  imagenet-to-detector  our classifier -> the backbone a detector starts from

examples:
  lesa convert --from torchvision resnet50.pth models/imagenet_conv_r50.pth
  lesa convert --from imagenet-to-detector \\
      models/imagenet_lesa_r50.pth models/start_lesa_r50.pth
"""


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="lesa convert",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--from", dest="kind", choices=CONVERSIONS, required=True, help="what SRC is")
    parser.add_argument("source", metavar="SRC", type=Path, help="a file written by torch.save")
    parser.add_argument("target", metavar="DST", type=Path, help="the .pth file to write")
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="unpickle objects in SRC, which can run code from it: only for files you trust",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Convert, print a summary, and return the exit status."""
    args = parse_args(arguments)
    conversion = convert_file(args.kind, args.source, args.target, force=args.force, unsafe=args.unsafe)
    print(conversion.summary())
    print(f"\nWrote {args.target}; every tensor is listed in {args.target.with_suffix('.txt')}")
    return 0
