"""Exact all-to-all attention with decomposed relative logits: one entry point, backends behind it.

Shapes: N images, G heads, n = H·W row-major positions, dq query/key and dv value channels a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor, backend: str = "auto"
) -> Tensor:
    """softmax_j( q_i·k_j + col_bias_i[x_j] + row_bias_i[y_j] ) v_j, with no scaling of the logits.

    Args:
        q, k: (N, G, n, dq).
        v: (N, G, n, dv).
        col_bias: (N, G, n, W), what query i adds for keys in column x.
        row_bias: (N, G, n, H), what query i adds for keys in row y; n = H·W.
        backend: "auto", or one of ``BACKENDS``; "reference" is the definition.

    Returns:
        (N, G, n, dv) in v's dtype.  Logits and softmax are computed in float32 or wider.

    Raises:
        ValueError: unknown backend, or shapes that do not fit together.
    """
    _check_shapes(q, k, v, col_bias, row_bias)
    with full_precision(q, k, v, col_bias, row_bias) as inputs:
        return find_backend(backend)(*inputs).to(v.dtype)


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Half-precision tensors widened to float32, with autocast off: for logits, norms of logits, softmax."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield [at_least_float32(t) for t in tensors]


def at_least_float32(t: Tensor) -> Tensor:
    """Half precision widened; everything else as it is."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def relative_logits(col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """The relative term for all pairs: (N, G, n, W) and (N, G, n, H) -> (N, G, n, n)."""
    return (row_bias.unsqueeze(-1) + col_bias.unsqueeze(-2)).flatten(-2)


def _reference(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """The definition, with every logit in memory."""
    logits = q @ k.transpose(-2, -1) + relative_logits(col_bias, row_bias)
    return logits.softmax(-1) @ v


BACKENDS: dict[str, Callable[..., Tensor]] = {"reference": _reference}


def find_backend(name: str) -> Callable[..., Tensor]:
    """The function behind a backend's name; ValueError lists the names there are."""
    if name == "auto":
        return _reference
    if name not in BACKENDS:
        raise ValueError(f"unknown attention backend {name!r}; choose 'auto' or one of {sorted(BACKENDS)}")
    return BACKENDS[name]


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> None:
    lead = q.shape[:-1]
    places = col_bias.shape[-1] * row_bias.shape[-1]
    fits = k.shape == q.shape and all(t.shape[:-1] == lead for t in (v, col_bias, row_bias))
    if q.dim() != 4 or not fits or q.shape[-2] != places:
        named = {"q": q, "k": k, "v": v, "col_bias": col_bias, "row_bias": row_bias}
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in named.items())
        raise ValueError(
            "relative_attention expects q, k (N, G, n, dq), v (N, G, n, dv), col_bias (N, G, n, W), "
            f"row_bias (N, G, n, H) with n = H*W; got {shapes}"
        )
