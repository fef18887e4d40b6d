"""Exact attention of stock operators for traces, in a fixed number of parts: a trace freezes the length of a loop."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import reference_attention

PARTS = 8


def exported_attention(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Compute the attention in ``PARTS`` parts of the queries, so that 1/PARTS of the logits exist at a time."""
    queries = q.shape[2]
    # More rows than needed, two in every part at least: torch.export would ask whether it is none, or one.
    padding = (0, 0, 0, 2 * PARTS - queries % PARTS)
    parts = [F.pad(t, padding).unflatten(2, (PARTS, -1)).unbind(2) for t in (q, col_bias, row_bias)]
    outputs = [reference_attention(q_, k, v, col_, row_) for q_, col_, row_ in zip(*parts, strict=True)]
    return torch.cat(outputs, 2)[:, :, :queries]
