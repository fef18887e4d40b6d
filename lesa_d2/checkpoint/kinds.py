"""Tell what a checkpoint is from the names of its tensors, never from the name of its file."""

import os
from collections.abc import Mapping

from torch import Tensor

from .names import (
    BACKBONE,
    CAFFE2,
    CLASSIFIER,
    FC_IN_STEM,
    FOREIGN,
    STEM,
    TORCHVISION_BODY,
    of_classifier,
    strip_prefixes,
)
from .reading import read_checkpoint

KINDS = {
    "detector": "a detector, or another whole model of detectron2 with a backbone and heads",
    "start": "a backbone that detectors start from",
    "classifier": "an ImageNet classifier of lesa_d2",
    "official-imagenet": "an ImageNet classifier of the authors' release",
    "official-detector": "a detector of the authors' release or of mmdetection",
    "torchvision": "a ResNet, Wide ResNet or ResNeXt of torchvision with bottleneck blocks, or timm's or mmpretrain's",
    "torchvision-detector": "a detector of torchvision with a ResNet and FPN",
    "detectron2-imagenet": "an ImageNet ResNet that detectron2 took over from torchvision, such as its R-50.pkl",
    "caffe2-imagenet": "an ImageNet ResNet with the names of Caffe2, such as MSRA's R-50.pkl",
    "caffe2-detector": "a detector of Caffe2's Detectron",
}
"""The kinds of checkpoints, and what each of them is."""
STARTS = (
    "start",
    "classifier",
    "official-imagenet",
    "torchvision",
    "detectron2-imagenet",
    "caffe2-imagenet",
)
"""The kinds that training can start from, itself or its conversion, and that detect nothing."""


def kind_of(state_dict: Mapping[str, Tensor]) -> str:
    """Return which of ``KINDS`` a state dict is, by its names; "" when it is none of them."""
    names = strip_prefixes(state_dict, ("module.",))
    roots = {name.partition(".")[0] for name in names} - {"pixel_mean", "pixel_std"}
    if roots & {"neck", "rpn_head", "roi_head"}:
        return "official-detector"
    if any(CAFFE2.match(name) for name in names):
        is_detector = any(name.startswith(("fpn_", "conv_rpn", "rpn_", "fc6_")) for name in names)
        return "caffe2-detector" if is_detector else "caffe2-imagenet"
    if any(name.startswith(TORCHVISION_BODY) for name in names):
        return "torchvision-detector" if {"rpn", "roi_heads"} <= roots else ""
    is_foreign = any(FOREIGN.match(name) for name in names)
    if is_foreign and all(name.startswith((CLASSIFIER, "head.fc.")) for name in names):
        names, roots = of_classifier(names), {CLASSIFIER}
    if "backbone" in roots and len(roots) > 1:
        return "" if is_foreign else "detector"
    if any(name.startswith(BACKBONE) for name in names):
        return "start"
    if STEM in names or CLASSIFIER + STEM in names:
        is_of_detectron2 = any(name.startswith(FC_IN_STEM) for name in names)
        return "detectron2-imagenet" if is_of_detectron2 else "classifier"
    trunk = strip_prefixes(names)
    if not is_foreign or not any(".conv3." in name for name in trunk):  # a ResNet-18 has no conv3
        return ""
    return "official-imagenet" if any(".qkv_transform." in name for name in trunk) else "torchvision"


def kind_of_file(path: str | os.PathLike) -> str:
    """Return :func:`kind_of` for the weights in a file.

    Raises:
        CheckpointError: there is no such file, or it cannot be read as weights.
    """
    return kind_of(read_checkpoint(path)["model"])


def holds_trained_model(path: str | os.PathLike) -> bool:
    """Return whether a file holds a whole model, and not only a backbone that training starts from.

    A file of an unknown kind counts as a whole model: whoever loads it learns what does not fit.

    Raises:
        CheckpointError: there is no such file, or it cannot be read as weights.
    """
    return kind_of_file(path) not in STARTS
