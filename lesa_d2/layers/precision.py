"""Where half precision is not enough: logits, norms of logits, softmax, sampling positions."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(like: Tensor) -> AbstractContextManager:
    """Return a context in which the device of ``like`` computes in the dtypes it is given."""
    if like.is_meta:  # computes nothing, and knows no autocast
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def at_least_float32(t: Tensor) -> Tensor:
    """Widen half precision; return everything else as it is."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
