"""Tell what a checkpoint is from the names of its tensors, never from the name of its file."""

import os
from collections.abc import Mapping

from torch import Tensor

from .names import BACKBONE, CLASSIFIER, FOREIGN, STEM, strip_prefixes
from .reading import read_checkpoint

KINDS = {
    "detector": "a detector, or another whole model of detectron2 with a backbone and heads",
    "start": "a backbone that detectors start from",
    "classifier": "an ImageNet classifier of lesa_d2",
    "official-imagenet": "an ImageNet classifier of the authors' release",
    "official-detector": "a detector of the authors' release",
    "torchvision": "a ResNet, Wide ResNet or ResNeXt of torchvision with bottleneck blocks",
}
"""The kinds of checkpoints, and what each of them is."""
STARTS = ("start", "classifier", "official-imagenet", "torchvision")
"""The kinds that training can start from, itself or its conversion, and that detect nothing."""


def kind_of(state_dict: Mapping[str, Tensor]) -> str:
    """Return which of ``KINDS`` a state dict is, by its names; "" when it is none of them."""
    names = strip_prefixes(state_dict, ("module.",))
    roots = {name.partition(".")[0] for name in names} - {"pixel_mean", "pixel_std"}
    if roots & {"neck", "rpn_head", "roi_head"}:
        return "official-detector"
    is_foreign = any(FOREIGN.match(name) for name in names)
    if "backbone" in roots and len(roots) > 1:
        return "" if is_foreign else "detector"
    if any(name.startswith(BACKBONE) for name in names):
        return "start"
    if STEM in names or CLASSIFIER + STEM in names:
        return "classifier"
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
