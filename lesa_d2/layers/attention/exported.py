"""Exact attention of stock operators for traces, in a fixed number of parts: a trace freezes the length of a loop."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import reference_attention

PARTS = 4  # more make torch.export slow: it reasons about the size of every part


def exported_attention(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Compute the attention in ``PARTS`` parts of the queries, so that 1/PARTS of the logits exist at a time."""
    queries = q.shape[2]
    rows = (
        queries // PARTS + 2
    )  # more than needed, and not one: torch.export would treat these as separate cases
    padding = (0, 0, 0, rows * PARTS - queries)
    parts = [F.pad(t, padding).unflatten(2, (PARTS, rows)).unbind(2) for t in (q, col_bias, row_bias)]
    outputs = [reference_attention(q_, k, v, col_, row_) for q_, col_, row_ in zip(*parts, strict=True)]
    return torch.cat(outputs, 2)[:, :, :queries]
