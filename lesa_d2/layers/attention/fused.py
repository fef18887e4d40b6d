"""Exact attention in fused Triton kernels, for CUDA devices: no logit reaches the device's memory."""

import importlib.util
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .recompute import Tensors, empty_like_heads, recomputing_attention

# What stays in registers when compiled for compute capability 8.0 and 9.0, by dtype.
MAX_CHANNELS = {torch.float16: 128, torch.bfloat16: 128, torch.float32: 64}
FORWARD_QUERIES = {torch.float16: 128, torch.bfloat16: 128, torch.float32: 64}
BACKWARD_QUERIES = {torch.float16: 64, torch.bfloat16: 64, torch.float32: 32}
SEGMENTS = (32, 16)
MAX_PADDING = 1.25  # of a row of keys cut into segments
MIN_CAPABILITY = (8, 0)  # bfloat16 tensor cores


def machine_obstacle() -> str | None:
    """Return why the kernels cannot run on any tensor here, or None."""
    if not has_triton():
        return "Triton is not installed (it comes with PyTorch for CUDA on Linux)"
    if not interpreted() and not (torch.cuda.is_available() and torch.version.cuda):
        return "PyTorch finds no CUDA device"
    return None


def fused_obstacle(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> str | None:
    """Return why the kernels cannot run on these tensors, or None."""
    obstacle = machine_obstacle()
    if obstacle is not None:
        return obstacle
    if not interpreted():
        if not q.is_cuda:
            return f"it needs CUDA tensors, got {q.device.type}"
        capability = torch.cuda.get_device_capability(q.device)
        if capability < MIN_CAPABILITY:
            return f"it needs compute capability {MIN_CAPABILITY} or higher, this device has {capability}"
    wide = [t for t in (q, col_bias, row_bias) if t.dtype == torch.float64]
    if k.dtype != v.dtype or k.dtype not in MAX_CHANNELS or wide:
        return f"k and v must share one of {[*MAX_CHANNELS]} and nothing be float64, got {k.dtype}, {v.dtype}"
    if max(q.shape[-1], v.shape[-1]) > MAX_CHANNELS[k.dtype]:
        return (
            f"a head may have {MAX_CHANNELS[k.dtype]} channels in {k.dtype}, "
            f"got {q.shape[-1]} for keys and {v.shape[-1]} for values"
        )
    return None


@cache
def has_triton() -> bool:
    """Return whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Return whether Triton runs kernels in its interpreter, on the CPU: slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def segment_for(width: int) -> int:
    """Return the longest segment that cuts a row of ``width`` keys without much padding."""
    fits = (s for s in SEGMENTS if -(-width // s) * s <= MAX_PADDING * width)
    return next(fits, SEGMENTS[-1])


def _options(q: Tensor, v: Tensor, width: int, queries: int) -> dict[str, Any]:
    """Return the kernels' compile-time arguments."""
    d, dv = q.shape[-1], v.shape[-1]
    exact = torch.get_float32_matmul_precision() == "highest"
    return {
        "D": d,
        "DP": max(16, 1 << (d - 1).bit_length()),
        "DV": dv,
        "DVP": max(16, 1 << (dv - 1).bit_length()),
        "QUERIES": queries,
        "SEGMENT": segment_for(width),
        "PRECISION": "ieee" if exact else "tf32",
        "num_warps": 8,
    }


def _forward(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> tuple[Tensor, Tensor]:
    from . import triton_kernels as kernels

    result = empty_like_heads(v, q.shape[1])
    q, k, v, col_bias, row_bias = (t.contiguous() for t in (q, k, v, col_bias, row_bias))
    maps, queries, width, height = *q.shape[:2], col_bias.shape[-1], row_bias.shape[-1]
    out = v.new_empty((maps, queries, v.shape[2]))
    lse = q.new_empty((maps, queries, 1), dtype=torch.float32)
    options = _options(q, v, width, FORWARD_QUERIES[q.dtype])
    if maps:
        grid = (-(-queries // options["QUERIES"]), maps)
        kernels.attention_forward[grid](
            q, k, v, col_bias, row_bias, out, lse, queries, height, width, **options
        )
    return out if result.is_contiguous() else result.copy_(out), lse


def _backward(grad: Tensor, inputs: Tensors, out: Tensor, logsumexp: Tensor) -> Tensors:
    from . import triton_kernels as kernels

    *_, v, col_bias, row_bias = inputs
    mean = (grad.float() * out.float()).sum(-1)
    q, k, v, col, row, grad = (t.contiguous() for t in (*inputs, grad.to(v.dtype)))
    maps, queries, width, height = *q.shape[:2], col.shape[-1], row.shape[-1]
    dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
    dcol = torch.empty_like(col, dtype=torch.float32)
    drow = torch.zeros_like(row, dtype=torch.float32)
    options = _options(q, v, width, BACKWARD_QUERIES[q.dtype])
    if maps:
        tensors = (q, k, v, col, row, grad, logsumexp, mean)
        sizes = (queries, height, width)
        kernels.attention_backward_queries[(-(-queries // options["QUERIES"]), maps)](
            *tensors, dq, dcol, drow, *sizes, **options
        )
        kernels.attention_backward_keys[(height * -(-width // options["SEGMENT"]), maps)](
            *tensors, dk, dv, *sizes, **options
        )
    return dq, dk, dv, dcol.to(col_bias.dtype), drow.to(row_bias.dtype)


_fused = recomputing_attention("fused", _forward, _backward)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
    """Compute the attention: (N, G, ·, ·) inputs -> (N, G, m, dv); products of vectors in the dtype of k and v."""
    return _fused(q.to(k.dtype), k, v, col_bias, row_bias)
