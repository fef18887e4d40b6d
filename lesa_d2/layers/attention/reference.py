"""The definition of attention with decomposed relative logits, with every logit in memory."""

import math

from torch import Tensor


def relative_logits(col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Add the two biases for all pairs of query and key: (N, G, m, W) and (N, G, m, H) -> (N, G, m, n)."""
    return (row_bias.unsqueeze(-1) + col_bias.unsqueeze(-2)).flatten(-2)


def reference_attention(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Compute softmax_j( q_i·k_j + col_bias_i[x_j] + row_bias_i[y_j] ) v_j as it stands."""
    return reference_logits(q, k, col_bias, row_bias).softmax(-1) @ v


def reference_logits(q: Tensor, k: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Compute q_i·k_j + col_bias_i[x_j] + row_bias_i[y_j], (N, G, m, n)."""
    return q @ k.transpose(-2, -1) + relative_logits(col_bias, row_bias)


def softmax_without_self(logits: Tensor) -> Tensor:
    """Compute the softmax of (…, n, n) over j ≠ i; zero on a map of one position, where nothing remains."""
    if logits.shape[-1] == 1:
        return logits * 0
    own = logits.new_ones(logits.shape[-1]).diag().bool()
    return logits.masked_fill(own, -math.inf).softmax(-1)
