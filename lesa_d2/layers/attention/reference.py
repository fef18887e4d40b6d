"""The definition of attention with decomposed relative logits, with every logit in memory."""

from torch import Tensor


def relative_logits(col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """The relative term for all pairs: (N, G, n, W) and (N, G, n, H) -> (N, G, n, n)."""
    return (row_bias.unsqueeze(-1) + col_bias.unsqueeze(-2)).flatten(-2)


def reference_attention(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """softmax_j( q_i·k_j + col_bias_i[x_j] + row_bias_i[y_j] ) v_j."""
    logits = q @ k.transpose(-2, -1) + relative_logits(col_bias, row_bias)
    return logits.softmax(-1) @ v
