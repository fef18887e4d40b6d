"""Exact attention block by block, in plain PyTorch, for any device: no more than a block of logits exists.

A block holds all keys of a few queries, so that its softmax is complete; its rows are chosen to stay in the
cache.  Three things make it fast on a CPU:

- Every pass works in place on one buffer, and the products are batched matrix products of contiguous blocks.
- The shift that keeps the softmax from overflowing comes from the thin biases: a row's largest logit lies
  within |q_i|·max|k_j| of max(col_bias_i) + max(row_bias_i).  Only where that bound is too loose for float32
  is the maximum of the logits themselves taken.
- The backward pass recomputes a block of probabilities in one exponential, from the log-sum-exp kept per query.

Shapes: B = N·G maps of all images and heads, n = H·W positions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .recompute import Tensors, recomputing_attention

BLOCK_LOGITS = 2**19  # per thread: 2 MiB of float32, the second-level cache of current processors
MIN_BLOCK_ROWS = 64  # below that the matrix products become slow
CUDA_BLOCK_LOGITS = 2**26  # a GPU wants large launches: 256 MiB of float32
MAX_LOOSENESS = 60.0  # exp(±60)·n stays far inside float32's range


@dataclass(frozen=True)
class Block:
    """One step: some maps, some of their queries."""

    maps: slice
    rows: slice

    def of(self, t: Tensor) -> Tensor:
        """This block's part of (B, n, …)."""
        return t[self.maps, self.rows]


class Blocks:
    """How B maps of n queries are cut: as many maps at once as there are threads, rows to fill the cache."""

    def __init__(self, like: Tensor) -> None:
        self.count, self.places = like.shape[:2]
        on_cpu = like.device.type == "cpu"
        self.maps = max(1, min(self.count, torch.get_num_threads() if on_cpu else self.count))
        logits = BLOCK_LOGITS * torch.get_num_threads() if on_cpu else CUDA_BLOCK_LOGITS
        rows = logits // (self.maps * self.places)
        self.rows = min(self.places, max(MIN_BLOCK_ROWS, rows))

    def map_slices(self) -> Iterator[slice]:
        """The groups of maps, in order."""
        return (slice(start, min(start + self.maps, self.count)) for start in range(0, self.count, self.maps))

    def within(self, maps: slice) -> Iterator[Block]:
        """The blocks of one group of maps, in order."""
        for start in range(0, self.places, self.rows):
            yield Block(maps, slice(start, min(start + self.rows, self.places)))

    def buffer(self, like: Tensor) -> Tensor:
        """Memory for the largest block of logits; :func:`part` cuts it to a block."""
        return like.new_empty(self.maps * self.rows * self.places)


def part(buffer: Tensor, block_of: Tensor, places: int) -> Tensor:
    """(maps, rows, places) at the start of ``buffer``, for a block's part of (B, n, …)."""
    shape = (*block_of.shape[:2], places)
    return buffer[: math.prod(shape)].view(shape)


def fill_logits(out: Tensor, q: Tensor, keys: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Logits of a block's queries: q (b, r, dq), keys (b, dq, n), biases (b, r, W), (b, r, H) -> (b, r, n)."""
    grid = out.unflatten(-1, (row_bias.shape[-1], col_bias.shape[-1]))
    torch.add(row_bias.unsqueeze(-1), col_bias.unsqueeze(-2), out=grid)
    return out.baddbmm_(q, keys)


def is_bounded(q: Tensor, k: Tensor) -> bool:
    """Whether |q_i·k_j| is small enough everywhere for the biases alone to give a safe shift."""
    longest = q.norm(dim=-1).amax(-1) * k.norm(dim=-1).amax(-1)
    return bool((longest <= MAX_LOOSENESS).all())


def _forward(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> tuple[Tensor, Tensor]:
    """(B, n, ·) inputs -> attention (B, n, dv) and log-sum-exp of the logits (B, n, 1)."""
    blocks = Blocks(q)
    buffer = blocks.buffer(q)
    keys = k.transpose(-2, -1)
    bounded = is_bounded(q, k)
    shift = col_bias.amax(-1, keepdim=True) + row_bias.amax(-1, keepdim=True)
    shifted = col_bias - shift
    out, total = torch.empty_like(v), torch.empty_like(shift)
    for maps in blocks.map_slices():
        for block in blocks.within(maps):
            logits = part(buffer, block.of(q), blocks.places)
            fill_logits(logits, block.of(q), keys[maps], block.of(shifted), block.of(row_bias))
            if not bounded:
                highest = logits.amax(-1, keepdim=True)
                logits -= highest
                block.of(shift).add_(highest)
            sums = logits.exp_().sum(-1, keepdim=True)
            torch.div(torch.bmm(logits, v[maps]), sums, out=block.of(out))
            block.of(total).copy_(sums)
    return out, shift + total.log()


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    col_bias: Tensor,
    row_bias: Tensor,
    out: Tensor,
    logsumexp: Tensor,
) -> Tensors:
    """Gradients of q, k, v, col_bias, row_bias; with p the probabilities and s the logits,

        ds = p · (grad·v − grad·out)        dq = ds k      dk = dsᵀ q      dv = pᵀ grad
    """
    blocks = Blocks(q)
    buffers = blocks.buffer(q), blocks.buffer(q)
    keys = k.transpose(-2, -1)
    normalised = col_bias - logsumexp
    # One product gives grad·v − grad·out: a column of ones next to v meets −grad·out next to grad.
    ones = torch.cat([v, torch.ones_like(v[..., :1])], -1).transpose(-2, -1)
    grad_and_mean = torch.cat([grad, -(grad * out).sum(-1, keepdim=True)], -1)
    dq, dk, dv, dcol, drow = (torch.zeros_like(t) for t in (q, k, v, col_bias, row_bias))
    grid = row_bias.shape[-1], col_bias.shape[-1]
    for maps in blocks.map_slices():
        for block in blocks.within(maps):
            p, ds = (part(buffer, block.of(q), blocks.places) for buffer in buffers)
            fill_logits(p, block.of(q), keys[maps], block.of(normalised), block.of(row_bias)).exp_()
            dv[maps].baddbmm_(p.transpose(-2, -1), block.of(grad))
            torch.bmm(block.of(grad_and_mean), ones[maps], out=ds).mul_(p)
            block.of(dq).copy_(torch.bmm(ds, k[maps]))
            dk[maps].baddbmm_(ds.transpose(-2, -1), block.of(q))
            per_place = ds.unflatten(-1, grid)
            block.of(dcol).copy_(per_place.sum(-2))
            block.of(drow).copy_(per_place.sum(-1))
    return dq, dk, dv, dcol, drow


blockwise_attention = recomputing_attention("blockwise", _forward, _backward)
