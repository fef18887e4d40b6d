"""Running statistics while activation checkpointing repeats a forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..compat import is_inside_backward
from .norm import BatchNorm


@contextmanager
def statistics_once(module: nn.Module) -> Iterator[None]:
    """Keep running statistics unchanged while activation checkpointing repeats a forward pass.

    Whatever calls it, a forward pass of a training module inside a backward pass is such a repetition; the
    first pass has updated the statistics already.
    """
    norms: list[BatchNorm] = []
    if module.training and is_inside_backward():
        norms = [m for m in module.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def may_be_repeated(module: nn.Module) -> bool:
    """Return whether a forward pass of ``module`` may be the second one of activation checkpointing.

    A compiled graph plans its recomputation itself, and updates the statistics once.
    """
    return module.training and not torch.compiler.is_compiling()
