"""``lesa convert``: convert checkpoints of others to ours, or our classifier to a detector's start.

Prints a summary, and lists every tensor in a .txt beside the result.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint import CONVERSIONS, convert_file, origin_of
from ..config import load_any_config

EPILOG = """
kinds of SRC:
  official-imagenet     the authors' ImageNet classifier, of either layout -> ours
  official-detector     the authors' Mask R-CNN or Hybrid Task Cascade -> ours
  torchvision           torchvision's ResNets, Wide ResNets and ResNeXts with bottleneck blocks (resnet50 and
                        deeper) -> our classifier with operator "conv"; its Mask R-CNN and Faster R-CNN with
                        FPN -> detectron2's names, the classes of COCO in detectron2's order
  timm                  the same ResNets from timm
  mmdetection           Mask R-CNN of mmdetection, ResNets of mmpretrain
  detectron2            detectron2's and Detectron's .pkl files: R-50.pkl, model_final_*.pkl.  Detectors of the
                        model zoo need --config-file, which says whether their images are RGB or BGR and where
                        the blocks have their stride
  imagenet-to-detector  our classifier -> the backbone a detector starts from

SRC is a file of torch.save, of safetensors or a pickle of numpy arrays, or an address such as
torchvision://resnet50. Training converts by itself: all these can be train.init_checkpoint.

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
    parser.add_argument("source", metavar="SRC", help="the file to read")
    parser.add_argument("target", metavar="DST", type=Path, help="the .pth or .safetensors file to write")
    parser.add_argument("--config-file", metavar="CONFIG", help="config of the detector in SRC (detectron2)")
    parser.add_argument(
        "--keep-positions",
        action="store_true",
        help="keep decomposed position tables, to be interpolated (imagenet-to-detector); the paper's start fresh",
    )
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
    conversion = convert_file(
        args.kind,
        args.source,
        args.target,
        force=args.force,
        unsafe=args.unsafe,
        origin=origin_of(load_any_config(args.config_file)) if args.config_file else None,
        keep_positions=args.keep_positions,
    )
    print(conversion.summary())
    print(f"\nWrote {args.target}; every tensor is listed in {args.target.with_suffix('.txt')}")
    return 0
