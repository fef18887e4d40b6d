"""The definition of attention with decomposed relative logits, with every logit in memory."""

import math
from typing import Literal

from torch import Tensor

OwnPosition = Literal["kept", "dropped", "masked"]
"""What a softmax does with the own position, i = j: see :func:`softmax`."""


def relative_logits(col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Add the two biases for all pairs of query and key: (N, G, m, W) and (N, G, m, H) -> (N, G, m, n)."""
    return (row_bias.unsqueeze(-1) + col_bias.unsqueeze(-2)).flatten(-2)


def reference_attention(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Compute softmax_j( q_i·k_j + col_bias_i[x_j] + row_bias_i[y_j] ) v_j as it stands."""
    return reference_logits(q, k, col_bias, row_bias).softmax(-1) @ v


def reference_logits(q: Tensor, k: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Compute q_i·k_j + col_bias_i[x_j] + row_bias_i[y_j], (N, G, m, n)."""
    return q @ k.transpose(-2, -1) + relative_logits(col_bias, row_bias)


def softmax(logits: Tensor, own_position: OwnPosition = "kept") -> Tensor:
    """Compute the softmax of (…, n, n) over the keys.

    Args:
        logits: of every query i (rows) and key j (columns).
        own_position: "kept"; "dropped" sets the weights of i = j to zero and leaves the others as they are;
            "masked" computes the softmax over j ≠ i, whose weights sum to one.  The two differ by the factor
            1 − p_ii of a row.  On a map of one position nothing remains, and all weights are zero.
    """
    if own_position == "kept":
        return logits.softmax(-1)
    own = logits.new_ones(logits.shape[-1]).diag().bool()
    if own_position == "dropped":
        return logits.softmax(-1).masked_fill(own, 0.0)
    return logits.masked_fill(own, -math.inf).softmax(-1) if len(own) > 1 else logits * 0
