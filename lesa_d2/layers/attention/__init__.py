"""Exact all-to-all attention with decomposed relative logits: one entry point, backends behind it.

Shapes: N images, G heads, n = H·W row-major positions, dq query/key and dv value channels a head.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..precision import full_precision
from .blockwise import blockwise_attention
from .fused import fused_attention, fused_obstacle
from .reference import reference_attention
from .sdpa import sdpa_attention

SMALL_LOGITS = 2**20  # in all maps; up to here they fit in the cache, and the definition is the fastest


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor, backend: str = "auto"
) -> Tensor:
    """softmax_j( q_i·k_j + col_bias_i[x_j] + row_bias_i[y_j] ) v_j, with no scaling of the logits.

    Args:
        q, k: (N, G, n, dq).
        v: (N, G, n, dv).
        col_bias: (N, G, n, W), what query i adds for keys in column x.
        row_bias: (N, G, n, H), what query i adds for keys in row y; n = H·W.
        backend: one of ``BACKENDS``, or "auto", which chooses by device, dtype and size.  "reference" is the
            definition; the others compute the same without a map of all pairs.

    Returns:
        (N, G, n, dv) in v's dtype.  Logits and softmax are computed in float32 or wider.

    Raises:
        ValueError: unknown backend, shapes that do not fit together, or a backend that cannot run on these
            tensors; the message says why.
    """
    check_backend(backend)
    inputs = (q, k, v, col_bias, row_bias)
    _check_shapes(*inputs)
    chosen = fastest_backend(*inputs) if backend == "auto" else BACKENDS[backend]
    obstacle = chosen.obstacle(*inputs)
    if obstacle is not None:
        raise ValueError(
            f"attention backend {backend!r} cannot run here: {obstacle}; 'auto' takes one that can"
        )
    if chosen.takes_half_precision:
        return chosen.run(*inputs)
    with full_precision(*inputs) as wide:
        return chosen.run(*wide).to(v.dtype)


def _no_obstacle(*inputs: Tensor) -> str | None:
    return None


@dataclass(frozen=True)
class Backend:
    """One way to compute the attention.

    Attributes:
        run: five tensors as in :func:`relative_attention` -> the output.
        obstacle: the same tensors -> why ``run`` cannot take them, or None.
        takes_half_precision: whether ``run`` widens where it must by itself; others get float32 or wider.
    """

    run: Callable[..., Tensor]
    obstacle: Callable[..., str | None] = _no_obstacle
    takes_half_precision: bool = False


BACKENDS = {
    "reference": Backend(reference_attention),
    "blockwise": Backend(blockwise_attention),
    "sdpa": Backend(sdpa_attention),
    "fused": Backend(fused_attention, fused_obstacle, takes_half_precision=True),
}


def fastest_backend(*inputs: Tensor) -> Backend:
    """What "auto" stands for, by device, dtype and size."""
    if inputs[0].is_cuda and fused_obstacle(*inputs) is None:
        return BACKENDS["fused"]
    images, heads, places, _ = inputs[0].shape
    is_small = images * heads * places**2 <= SMALL_LOGITS
    return BACKENDS["reference" if is_small else "blockwise"]


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
