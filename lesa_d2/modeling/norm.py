"""Norms by name: detectron2's, and the one the released detectors use."""

import functools
from collections.abc import Callable

from detectron2.layers import get_norm
from torch import nn

from ..layers import EvalBatchNorm2d

NORMS = ("BN", "SyncBN", "FrozenBN", "EvalBN")


def make_norm(name: str) -> Callable[[int], nn.Module]:
    """Return what makes a norm of this name for a number of channels.

    "EvalBN" uses stored statistics in training while its weight and bias train; the others are detectron2's.

    Raises:
        ValueError: another name; the operators' logits need a batch norm.
    """
    if name not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {name!r}")
    return EvalBatchNorm2d if name == "EvalBN" else functools.partial(get_norm, name)
