"""``lesa convert``: convert checkpoints of others to ours, or our classifier to a detector's start.

Prints a summary, and lists every tensor in a .txt beside the result.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint import CONVERSIONS, convert_file, origin_of, slots_table
from ..config import load_any_config, load_config
from ..engine.conversion import config_for, convert_convolution
from ..errors import CheckpointError
from . import description

CONVOLUTION = "convolution"
WITHOUT_IMAGES = """
Warning: without --images DIR the statistics of the norms behind the first slot are those of the convolutions, which do
not fit what the operators compute. Norms of the batch (BN) learn them; EvalBN and FrozenBN keep them for ever. Training
estimates them by itself when train.init_checkpoint is the convolutional file."""

EPILOG = """
kinds of SRC:
  convolution           any convolutional ResNet of those below, or a detector with one -> a start of the config's
                        model: the unary terms of its operators come from the 3×3 convolutions (docs/training.md)
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
  lesa convert --from convolution torchvision://resnet50 models/start_lesa_r50.pth --images pictures
  lesa convert --from torchvision resnet50.pth models/imagenet_conv_r50.pth
  lesa convert --from imagenet-to-detector \\
      models/imagenet_lesa_r50.pth models/start_lesa_r50.pth
"""


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="lesa convert",
        description=description(__doc__),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--from", dest="kind", choices=(CONVOLUTION, *CONVERSIONS), required=True, help="what SRC is"
    )
    parser.add_argument("source", metavar="SRC", help="the file to read")
    parser.add_argument("target", metavar="DST", type=Path, help="the .pth or .safetensors file to write")
    parser.add_argument(
        "--config-file",
        metavar="CONFIG",
        help="config of the detector in SRC (detectron2), or of the model to start (convolution)",
    )
    parser.add_argument(
        "--keep-positions",
        action="store_true",
        help="keep decomposed position tables, to be interpolated (imagenet-to-detector); the paper's start fresh",
    )
    of_convolution = parser.add_argument_group("convolution")
    of_convolution.add_argument(
        "--operator",
        default="lesa",
        help="operator of the model, where there is no --config-file (default: lesa)",
    )
    of_convolution.add_argument(
        "--images", metavar="DIR", help="a folder of pictures like those of training, to which all is fitted"
    )
    of_convolution.add_argument(
        "--num-images", metavar="N", type=int, default=32, help="how many of them (default: 32)"
    )
    of_convolution.add_argument("opts", metavar="key=value", nargs="*", help="overrides of the config")
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="unpickle objects in SRC, which can run code from it: only for files you trust",
    )
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Convert, print a summary, and return the exit status."""
    args = parse_args(arguments)
    if args.kind == CONVOLUTION:
        return _convert_convolution(args)
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


def _convert_convolution(args: argparse.Namespace) -> int:
    """Convert a convolutional network, and print the report of the slots."""
    if args.num_images < 1:
        raise CheckpointError(f"--num-images must be at least 1, got {args.num_images}")
    cfg = (
        load_config(args.config_file, args.opts)
        if args.config_file
        else config_for(args.source, args.operator, args.opts)
    )
    report = convert_convolution(
        args.source, args.target, cfg, pictures=args.images, number=args.num_images, force=args.force
    )
    print(report.summary(), slots_table(report.slots), sep="\n\n")
    if not args.images:
        print(WITHOUT_IMAGES)
    print(f"\nWrote {args.target}; every tensor is listed in {args.target.with_suffix('.txt')}")
    return 0
