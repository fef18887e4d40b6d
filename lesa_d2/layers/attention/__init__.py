"""Exact all-to-all attention with decomposed relative logits: one entry point, backends behind it.

Shapes: N images, G heads, n = H·W row-major positions, dq query/key and dv value channels a head.
"""

from collections.abc import Callable

from torch import Tensor

from ..precision import full_precision
from .blockwise import blockwise_attention
from .reference import reference_attention
from .sdpa import sdpa_attention

SMALL_MAP = 64  # positions up to which the definition is the fastest: its maps fit in the cache


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor, backend: str = "auto"
) -> Tensor:
    """softmax_j( q_i·k_j + col_bias_i[x_j] + row_bias_i[y_j] ) v_j, with no scaling of the logits.

    Args:
        q, k: (N, G, n, dq).
        v: (N, G, n, dv).
        col_bias: (N, G, n, W), what query i adds for keys in column x.
        row_bias: (N, G, n, H), what query i adds for keys in row y; n = H·W.
        backend: one of ``BACKENDS``, or "auto" for the fastest that can run.  "reference" is the definition;
            the others compute the same without a map of all pairs.

    Returns:
        (N, G, n, dv) in v's dtype.  Logits and softmax are computed in float32 or wider.

    Raises:
        ValueError: unknown backend, shapes that do not fit together, or a backend that cannot run on these
            tensors; the message says why.
    """
    inputs = (q, k, v, col_bias, row_bias)
    _check_shapes(*inputs)
    check_backend(backend)
    name = fastest_backend(q) if backend == "auto" else backend
    with full_precision(*inputs) as wide:
        return BACKENDS[name](*wide).to(v.dtype)


BACKENDS: dict[str, Callable[..., Tensor]] = {
    "reference": reference_attention,
    "blockwise": blockwise_attention,
    "sdpa": sdpa_attention,
}


def fastest_backend(q: Tensor) -> str:
    """What "auto" stands for, by the size of the map."""
    return "reference" if q.shape[2] <= SMALL_MAP else "blockwise"


def check_backend(name: str) -> None:
    """ValueError, with the names there are, unless ``name`` is "auto" or a backend."""
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"unknown attention backend {name!r}; choose 'auto' or one of {sorted(BACKENDS)}")


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
