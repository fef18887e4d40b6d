"""Exact attention block by block, in plain PyTorch, for any device: no more than a block of logits exists.

A block holds all keys of a few queries, so that its softmax is complete; its rows are chosen to stay in the
cache.  Some things make it fast on a CPU:

- Every pass works in place on one buffer or two, and products are batched products of contiguous blocks.
- Biases of columns and rows are taken less the highest of each query, which the softmax does not see: its largest logit
  then lies within ±|q_i|·max|k_j|.  Only where the logits may span more than an exponential can hold is their own
  maximum taken.
- The backward pass recomputes a block of probabilities in one exponential, from the log-sum-exp kept a query; it
  adds up the gradients of keys and values channel by channel, as products with few rows are the faster ones.
- Exponentials are to base 2 where those are faster: :class:`Exponentials`.

Shapes: B = N·G maps of all images and heads, n = H·W keys, m queries.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .recompute import Tensors, empty_by_query, empty_like_heads, recomputing_attention

BLOCK_LOGITS = (
    2**19
)  # per thread, in all buffers of a pass: 2 MiB of float32, for second- and third-level caches
MIN_BLOCK_ROWS = 64  # below that the matrix products become slow
CUDA_BLOCK_LOGITS = 2**27  # a GPU wants large launches: 512 MiB of float32 in all buffers


class Blocks:
    """How B maps are cut: whole maps if they are small, else a map a thread and a few of its rows.

    Args:
        q: queries (B, m, dq).
        keys: their number, n.
        buffers: of the size of a block, that a pass needs.
    """

    def __init__(self, q: Tensor, keys: int, buffers: int) -> None:
        count, queries = q.shape[:2]
        self.positions = keys
        on_cpu = q.device.type == "cpu"
        threads = torch.get_num_threads() if on_cpu else count
        logits = (BLOCK_LOGITS * threads if on_cpu else CUDA_BLOCK_LOGITS) // buffers
        self.maps = max(1, min(count, max(threads, logits // (queries * keys))))
        self.rows = min(queries, max(MIN_BLOCK_ROWS, logits // (self.maps * keys)))

    def cut_maps(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Cut (B, …) tensors into blocks of a few maps."""
        return zip(*(t.split(self.maps) for t in tensors), strict=True)

    def cut_rows(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Cut (b, m, …) tensors of such maps into blocks of a few queries."""
        return zip(*(t.split(self.rows, 1) for t in tensors), strict=True)

    def buffer(self, like: Tensor) -> Tensor:
        """Allocate memory for the largest block of logits; :func:`view_for` cuts it to a block."""
        return like.new_empty(self.maps * self.rows * self.positions)


def view_for(buffer: Tensor, queries: Tensor, positions: int) -> Tensor:
    """Return (b, r, positions) at the start of ``buffer``, for a block's queries (b, r, dq)."""
    maps, rows = queries.shape[:2]
    return buffer[: maps * rows * positions].view(maps, rows, positions)


def fill_logits(
    out: Tensor, q: Tensor, keys: Tensor, col_bias: Tensor, row_bias: Tensor, scale: float
) -> Tensor:
    """Compute the logits of a block, q · keys times ``scale`` plus the biases.

    q (b, r, dq), keys (b, dq, n), biases (b, r, W) and (b, r, H) -> (b, r, n).
    """
    grid = out.unflatten(-1, (row_bias.shape[-1], col_bias.shape[-1]))
    torch.add(row_bias.unsqueeze(-1), col_bias.unsqueeze(-2), out=grid)
    return out.baddbmm_(q, keys, alpha=scale)


class Exponentials:
    """The exponentials of a dtype on a device: their base, and the exponents that are fast and safe.

    On an AMD EPYC with AVX2, PyTorch computes powers of 2 twice as fast as those of e, so that the base is 2 where it
    uses AVX2.  Elsewhere the two were not compared, and the base is e.

    Args:
        like: a tensor of the dtype and on the device of the logits.

    Attributes:
        scale: what logits to base e are multiplied by, log_base(e).
        tiny: the lowest exponent; results below it are denormal numbers or come near: far from wrong, but very slow.
        large: an exponent such that sums of exponentials keep their precision up to it and down to −large.
        overflow: the highest exponent.
        negligible: how far, as a negative number, logits lie below the highest one when they change nothing, by a wide
            margin.
    """

    def __init__(self, like: Tensor) -> None:
        self._base_2 = like.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
        self.scale = math.log2(math.e) if self._base_2 else 1.0
        info = torch.finfo(like.dtype)
        self.tiny = self.scale * (math.log(info.tiny) + 7)
        self.large = 0.6 * -self.tiny
        self.overflow = self.scale * (math.log(info.max) - 1)
        self.negligible = self.scale * 3 * math.log(info.eps)

    def exp_(self, exponents: Tensor) -> Tensor:
        """Raise the base to the exponents, in place."""
        return exponents.exp2_() if self._base_2 else exponents.exp_()

    def log(self, values: Tensor) -> Tensor:
        """Compute the logarithm to the base."""
        return values.log2() if self._base_2 else values.log()


def raise_to(logits: Tensor, floor: float, has_excluded: bool) -> None:
    """Raise logits to the floor, in place, except those of −inf: a bias may exclude keys altogether."""
    excluded = logits.isneginf() if has_excluded else None
    logits.clamp_min_(floor)
    if excluded is not None:
        logits.masked_fill_(excluded, -math.inf)


def below_highest(bias: Tensor, scale: float) -> Tensor:
    """Return a bias (B, m, ·) less the highest of each query, times ``scale``: at most 0, whatever the bias."""
    return (bias - bias.amax(-1, keepdim=True)).mul_(scale)


def content_bound(q: Tensor, k: Tensor) -> Tensor:
    """Return (B, m, 1), a bound that no |q_i·k_j| exceeds."""
    return q.norm(dim=-1, keepdim=True) * k.norm(dim=-1).amax(-1)[:, None, None]


def _forward(
    q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor, *, without_self: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute attention (B, m, dv) of (B, m, ·) and (B, n, ·) inputs.

    The second result (B, m, 1) is the log-sum-exp of the logits less the query's highest biases, whose size would hide
    it.  With ``without_self`` no query sees its own position.
    """
    out = empty_like_heads(v, q.shape[1])
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    blocks, exponentials = Blocks(q, k.shape[1], buffers=1), Exponentials(q)
    scale = exponentials.scale
    buffer = blocks.buffer(q)
    col_bias, row_bias = below_highest(col_bias, scale), below_highest(row_bias, scale)
    bound = content_bound(q, k) * scale  # a query's highest logit lies within ±bound
    lowest = col_bias.amin(-1, keepdim=True) + row_bias.amin(-1, keepdim=True) - bound
    own = torch.arange(q.shape[1], device=q.device)[:, None].expand(len(q), -1, 1)
    # Sums of n exponentials times values must not overflow before they are divided by the sums.
    room = exponentials.overflow - scale * math.log(blocks.positions) - exponentials.log(v.abs().amax((1, 2)))
    is_safe = (bound <= exponentials.large) & (bound <= room[:, None, None]) & (lowest >= exponentials.tiny)
    has_excluded = without_self or bool(lowest.isneginf().any())
    shift, total = torch.zeros_like(lowest), torch.empty_like(lowest)
    by_map = (k.mT, v, q, col_bias, row_bias, own, shift, is_safe, total, out)
    for k_, v_, *by_query in blocks.cut_maps(*by_map):
        for q_, col_, row_, own_, shift_, is_safe_, total_, out_ in blocks.cut_rows(*by_query):
            logits = fill_logits(view_for(buffer, q_, blocks.positions), q_, k_, col_, row_, scale)
            if without_self:
                logits.scatter_(-1, own_, -math.inf)
            if not is_safe_.all():
                highest = logits.amax(-1, keepdim=True)
                raise_to(logits.sub_(highest), exponentials.negligible, has_excluded)
                shift_ += highest
            sums = exponentials.exp_(logits).sum(-1, keepdim=True)
            torch.div(torch.bmm(logits, v_), sums, out=out_)
            total_.copy_(sums)
    return out, (shift + exponentials.log(total)) / scale


def _backward(grad: Tensor, inputs: Tensors, out: Tensor, logsumexp: Tensor) -> Tensors:
    """Compute the gradients of q, k, v, col_bias, row_bias; ``logsumexp`` is that of :func:`_forward`.

    With p the probabilities and s the logits,

    ds = p · (grad·v − grad·out)        dq = ds k      dk = dsᵀ q      dv = pᵀ grad
    """
    q, k, v, col_bias, row_bias = inputs
    q, k, grad = q.contiguous(), k.contiguous(), grad.contiguous()
    blocks, exponentials = Blocks(q, k.shape[1], buffers=2), Exponentials(q)
    scale = exponentials.scale
    buffers = blocks.buffer(q), blocks.buffer(q)
    normalised, row_bias = below_highest(col_bias, scale) - logsumexp * scale, below_highest(row_bias, scale)
    bound = content_bound(q, k) * scale
    is_safe = normalised.amin(-1, keepdim=True) + row_bias.amin(-1, keepdim=True) - bound >= exponentials.tiny
    has_excluded = bool(normalised.isneginf().any() | row_bias.isneginf().any())
    # One product gives grad·v − grad·out: a column of ones next to v meets −grad·out next to grad.
    ones = torch.cat([v, torch.ones_like(v[..., :1])], -1).mT
    grad_and_mean = torch.cat([grad, -(grad * out).sum(-1, keepdim=True)], -1)
    dq, dcol = q.new_empty(q.shape), col_bias.new_empty(col_bias.shape)
    drow = empty_by_query(row_bias)
    dk, dv = k.new_zeros(k.mT.shape), v.new_zeros(v.mT.shape)
    by_query = (q, grad, grad_and_mean, normalised, row_bias, is_safe, dq, dcol, drow)
    for k_, ones_, dk_, dv_, *block in blocks.cut_maps(k, ones, dk, dv, *by_query):
        for q_, grad_, grad_mean_, col_, row_, is_safe_, dq_, dcol_, drow_ in blocks.cut_rows(*block):
            p, ds = (view_for(buffer, q_, blocks.positions) for buffer in buffers)
            fill_logits(p, q_, k_.mT, col_, row_, scale)
            if not is_safe_.all():
                raise_to(p, exponentials.negligible, has_excluded)
            exponentials.exp_(p)
            dv_.baddbmm_(grad_.mT, p)
            torch.bmm(grad_mean_, ones_, out=ds).mul_(p)
            dq_.copy_(torch.bmm(ds, k_))
            dk_.baddbmm_(q_.mT, ds)
            per_key = ds.unflatten(-1, (row_.shape[-1], col_.shape[-1]))
            dcol_.copy_(per_key.sum(-2))
            drow_.copy_(per_key.sum(-1))
    return dq, dk.mT.contiguous(), dv.mT.contiguous(), dcol, drow


blockwise_attention = recomputing_attention("blockwise", _forward, _backward)


@torch.no_grad()
def attention_and_logsumexp(
    q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor, *, without_self: bool
) -> tuple[Tensor, Tensor]:
    """Compute both results of the forward pass, not differentiable: (N, G, n, dv) and (N, G, n).

    With ``without_self`` no query sees its own position; the only position of a 1×1 map then gets an output of
    zero and a log-sum-exp of −inf.
    """
    if without_self and q.shape[2] == 1:
        return torch.zeros_like(v), torch.full_like(q[..., 0], -math.inf)
    flat = (t.flatten(0, 1) for t in (q, k, v, col_bias, row_bias))
    out, logsumexp = _forward(*flat, without_self=without_self)
    highest = col_bias.amax(-1) + row_bias.amax(-1)
    return out.unflatten(0, v.shape[:2]), highest + logsumexp.unflatten(0, v.shape[:2]).squeeze(-1)
