"""Where half precision is not enough: logits, norms of logits, softmax, sampling positions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Half-precision tensors widened to float32, with autocast off."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield [at_least_float32(t) for t in tensors]


def at_least_float32(t: Tensor) -> Tensor:
    """Half precision widened; everything else as it is."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
