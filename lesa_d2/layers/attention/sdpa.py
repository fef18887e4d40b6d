"""The same attention through PyTorch's own kernels: an ordinary one with longer vectors.

    q' = [q, col_bias, row_bias]        k' = [k, onehot(x), onehot(y)]        q'_i·k'_j = the logit of i and j

Vectors grow by H + W entries, so this is slower than the dedicated backends; but it is made of stock
operators only, and needs linear memory wherever PyTorch has a fused kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Compute the attention with ``scaled_dot_product_attention``: (N, G, ·, ·) inputs -> (N, G, m, dv)."""
    width, height = col_bias.shape[-1], row_bias.shape[-1]
    lowest = torch.finfo(q.dtype).min / 4  # in a product with zeros, −inf would make NaN
    col_bias, row_bias = col_bias.clamp_min(lowest), row_bias.clamp_min(lowest)
    columns = torch.eye(width, dtype=q.dtype, device=q.device).repeat(height, 1)
    rows = torch.eye(height, dtype=q.dtype, device=q.device).repeat_interleave(width, 0)
    where = torch.cat([columns, rows], -1).expand(*k.shape[:2], -1, -1)
    long_q, long_k = torch.cat([q, col_bias, row_bias], -1), torch.cat([k, where], -1)
    # Fused kernels want one vector length for queries, keys and values.
    missing = long_q.shape[-1] - v.shape[-1]
    long_v, long_q, long_k = (
        F.pad(v, (0, max(missing, 0))),
        F.pad(long_q, (0, max(-missing, 0))),
        F.pad(long_k, (0, max(-missing, 0))),
    )
    return F.scaled_dot_product_attention(long_q, long_k, long_v, scale=1.0)[..., : v.shape[-1]]
