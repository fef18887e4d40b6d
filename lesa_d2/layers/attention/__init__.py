"""Exact all-to-all attention with decomposed relative logits: one entry point, backends behind it.

Shapes: N images, G heads, n = H·W row-major positions of keys, m queries, dq query/key and dv value channels a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from ..exporting import sizes_are_open
from ..precision import no_autocast
from .blockwise import attention_and_logsumexp, blockwise_attention
from .exported import exported_attention
from .fused import (
    arithmetic,
    device_obstacle,
    fused_attention,
    fused_obstacle,
    head_obstacle,
    machine_obstacle,
)
from .reference import reference_attention, reference_logits
from .sdpa import sdpa_attention

_CANNOT = "attention backend '{}' cannot run here: {}; 'auto' takes one that can"
SMALL_LOGITS = 2**20  # in all maps; up to here they fit in the cache, and the definition is the fastest


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor, backend: str = "auto"
) -> Tensor:
    """Compute softmax_j( q_i·k_j + col_bias_i[x_j] + row_bias_i[y_j] ) v_j, with no scaling of the logits.

    Args:
        q: queries (N, G, m, dq); m is n where a map attends to itself, and may be any other number.
        k: keys (N, G, n, dq).
        v: values (N, G, n, dv).
        col_bias: (N, G, m, W), what query i adds for keys in column x.
        row_bias: (N, G, m, H), what query i adds for keys in row y; n = H·W.
        backend: one of ``BACKENDS``, or "auto", which chooses by device, dtype and size.  "reference" is the
            definition; the others compute the same without a map of all pairs.

    Returns:
        (N, G, m, dv) in v's dtype.  Logits and softmax are computed in float32 or wider; only "fused"
        multiplies vectors in half precision, where k and v have it.

    Raises:
        ValueError: unknown backend, tensors that do not fit together, or a backend that cannot run on these;
            the message says why.
    """
    check_backend(backend)
    inputs = (q, k, v, col_bias, row_bias)
    _check_inputs(*inputs)
    chosen = choose_backend(backend, *inputs)
    obstacle = chosen.obstacle(*inputs)
    if obstacle is not None:
        raise ValueError(_CANNOT.format(backend, obstacle))
    if chosen.takes_half_precision:
        return chosen.run(*inputs)
    with no_autocast(q):
        return chosen.run(*(t.to(common_dtype(*inputs)) for t in inputs)).to(v.dtype)


def attention_without_self(
    q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor, *, renormalise: bool = False
) -> Tensor:
    """Compute Σ_{j ≠ i} p_ij v_j, the binary term of :func:`relative_attention`: (N, G, n, dv).

    With ``renormalise`` the sum is divided by 1 − p_ii, so that it is the softmax over j ≠ i.  On a map of one
    position nothing remains, and both are zero.  It is for evaluation: block by block on every device, not
    differentiable.
    """
    inputs = (q, k, v, col_bias, row_bias)
    _check_inputs(*inputs)
    _check_own_positions(q, k)
    with torch.no_grad(), no_autocast(q):
        q, k, wide, col_bias, row_bias = (t.to(common_dtype(*inputs)) for t in inputs)
        out, others = attention_and_logsumexp(q, k, wide, col_bias, row_bias, without_self=True)
        if not renormalise:  # 1 − p_ii without a difference, which would be noise where p_ii is near 1
            out *= (others - _own_logits(q, k, col_bias, row_bias)).sigmoid()[..., None]
        return out.to(v.dtype)


def self_weights(q: Tensor, k: Tensor, col_bias: Tensor, row_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the softmax weight that a position gives itself, and that of all others together.

    No map of all pairs is made: the weights are exp(logit_ii − L_i) and exp(M_i − L_i), with the log-sum-exp L
    over all keys and M over j ≠ i.  The two are computed independently, so that a sum of 1 verifies both.
    Arguments are those of :func:`relative_attention`.

    Returns:
        The own position's weights and those of the rest, (N, G, n) each. They are in float64, as large logits
        rounded to float32 would change them, and not differentiable.
    """
    _check_inputs(q, k, k, col_bias, row_bias)
    _check_own_positions(q, k)
    with torch.no_grad(), no_autocast(q):
        q, k, col_bias, row_bias = (t.double() for t in (q, k, col_bias, row_bias))
        inputs = (q, k, torch.ones_like(k[..., :1]), col_bias, row_bias)
        total = attention_and_logsumexp(*inputs, without_self=False)[1]
        others = attention_and_logsumexp(*inputs, without_self=True)[1]
        return (_own_logits(q, k, col_bias, row_bias) - total).exp(), (others - total).exp()


def _own_logits(q: Tensor, k: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Compute the logit of every position and itself, (N, G, n)."""
    size = (row_bias.shape[-1], col_bias.shape[-1])
    of_column = col_bias.unflatten(2, size).diagonal(dim1=3, dim2=4)
    of_row = row_bias.unflatten(2, size).diagonal(dim1=2, dim2=4).transpose(2, 3)
    return (q * k).sum(-1) + (of_column + of_row).flatten(2)


def attention_of(q: Tensor, k: Tensor, col_bias: Tensor, row_bias: Tensor, position: int) -> Tensor:
    """Compute the softmax weights of one query, (N, G, n), in float32 or wider.

    The tensors are those of :func:`relative_attention`, ``position`` is the query's index among the n positions.

    Raises:
        ValueError: the map has no such position, or the tensors do not fit together.
    """
    _check_inputs(q, k, k, col_bias, row_bias)
    if position not in range(q.shape[2]):
        raise ValueError(
            f"position must be one of the {q.shape[2]} positions, counted from 0, got {position}"
        )
    dtype = common_dtype(q, k, col_bias, row_bias)
    with no_autocast(q):
        q, col_bias, row_bias = (t[:, :, position, None].to(dtype) for t in (q, col_bias, row_bias))
        return reference_logits(q, k.to(dtype), col_bias, row_bias).softmax(-1).squeeze(2)


def common_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float32, or the widest of the tensors' dtypes if that is wider."""
    return reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


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


EXPORTED = Backend(exported_attention)
"""Stands for every backend in a trace, which other programs run, at other sizes."""


def choose_backend(name: str, *inputs: Tensor) -> Backend:
    """Return the backend of this name for these inputs; in a trace, the one of stock operators and open sizes."""
    if sizes_are_open():
        return EXPORTED
    return fastest_backend(*inputs) if name == "auto" else BACKENDS[name]


def fastest_backend(*inputs: Tensor) -> Backend:
    """Choose what "auto" stands for, by device, dtype and size."""
    if inputs[0].is_cuda and fused_obstacle(*inputs) is None:
        return BACKENDS["fused"]
    images, heads, queries, _ = inputs[0].shape
    is_small = images * heads * queries * inputs[1].shape[2] <= SMALL_LOGITS
    return BACKENDS["reference" if is_small else "blockwise"]


_BLOCKWISE = "exact, a few queries at a time (backend blockwise)"


def describe_backend(name: str, device: torch.device, dtype: torch.dtype, head: tuple[int, int]) -> str:
    """Say what an attention will be computed by, and why, before it has any input.

    Args:
        name: of a backend, or "auto".
        device: of the model.
        dtype: that vectors have; that of autocast where it is on.
        head: channels of a head, for keys and for values.
    """
    if name != "auto":
        return f"{name}, as configured"
    obstacle = device_obstacle(device) or head_obstacle(dtype, *head)
    if device.type != "cuda":
        return f"{_BLOCKWISE}, on the {device.type.upper()}"
    if obstacle is not None:
        return f"{_BLOCKWISE}: {obstacle}"
    products = {"ieee": "float32", "tf32": "TF32", "half": str(dtype).removeprefix("torch.")}[
        arithmetic(dtype)
    ]
    return f"fused, products in {products}"


def check_backend(name: str) -> None:
    """Check that ``name`` is "auto" or a backend that this machine can run.

    Raises:
        ValueError: it is not; the message says why.
    """
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"unknown attention backend {name!r}; choose 'auto' or one of {sorted(BACKENDS)}")
    obstacle = machine_obstacle() if name == "fused" else None
    if obstacle is not None:
        raise ValueError(_CANNOT.format(name, obstacle))


def _check_inputs(*inputs: Tensor) -> None:
    if torch.jit.is_tracing():  # sizes are tensors there, and whoever compares them is warned
        return
    q, k, v, col_bias, row_bias = inputs
    one_kind = all(t.dim() == 4 and t.is_floating_point() and t.device == q.device for t in inputs)
    fits = (
        one_kind
        and col_bias.shape[:3] == row_bias.shape[:3] == q.shape[:3]
        and v.shape[:3] == k.shape[:3]
        and (*q.shape[:2], q.shape[3]) == (*k.shape[:2], k.shape[3])
    )
    if not fits or k.shape[2] != col_bias.shape[3] * row_bias.shape[3] or 0 in (q.shape[2], k.shape[2]):
        names = ("q", "k", "v", "col_bias", "row_bias")
        received = ", ".join(
            f"{name} {tuple(t.shape)} {t.dtype} on {t.device}" for name, t in zip(names, inputs, strict=True)
        )
        raise ValueError(
            "relative_attention expects q (N, G, m, dq), k (N, G, n, dq), v (N, G, n, dv), col_bias (N, G, m, W), "
            f"row_bias (N, G, m, H) with n = H*W, floating point numbers on one device; got {received}"
        )


def _check_own_positions(q: Tensor, k: Tensor) -> None:
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"own positions need as many queries as keys, got {q.shape[2]} queries and {k.shape[2]} keys"
        )
