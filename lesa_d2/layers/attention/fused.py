"""Exact attention in fused Triton kernels, for CUDA devices: no logit reaches the device's memory."""

import importlib.util
import os
import re
import shutil
from functools import cache

import torch
from torch import Tensor

from .recompute import Tensors, empty_like_heads, recomputing_attention
from .tiles import KERNELS, MAX_CHANNELS, kernel_options

MIN_CAPABILITY = (8, 0)  # bfloat16 tensor cores
LOG2E = 1.4426950408889634
MAX_INDEX = 2**31 - 1  # the kernels count within a map, and their programs, in 32 bits
MIN_TRITON = (3, 2)
WITHOUT_COMPILER = (3, 6)  # from this version on Triton needs no C compiler


def machine_obstacle() -> str | None:
    """Return why the kernels cannot run on any tensor here, or None."""
    if not has_triton():
        return "Triton is not installed (it comes with PyTorch for CUDA on Linux)"
    if triton_version() < MIN_TRITON:
        return f"it needs Triton {_text(MIN_TRITON)} or newer, got {_text(triton_version())}"
    if interpreted():
        return None
    if not (torch.cuda.is_available() and torch.version.cuda):
        return "PyTorch finds no CUDA device"
    if triton_version() < WITHOUT_COMPILER and not has_c_compiler():
        return (
            f"Triton {_text(triton_version())} compiles its launcher with a C compiler, and there is none: install "
            "gcc or clang, or name one in the environment variable CC"
        )
    return None


def device_obstacle(device: torch.device) -> str | None:
    """Return why the kernels cannot run on ``device``, or None."""
    obstacle = machine_obstacle()
    if obstacle is not None or interpreted():
        return obstacle
    if device.type != "cuda":
        return f"it needs CUDA tensors, got {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"it needs compute capability {MIN_CAPABILITY} or higher, this device has {capability}"
    return None


def head_obstacle(dtype: torch.dtype, key_dim: int, value_dim: int) -> str | None:
    """Return why the kernels cannot compute heads of this dtype and these numbers of channels, or None."""
    if dtype not in MAX_CHANNELS:
        return f"k and v must have one of {[*MAX_CHANNELS]}, got {dtype}"
    if max(key_dim, value_dim) > MAX_CHANNELS[dtype]:
        return (
            f"a head may have {MAX_CHANNELS[dtype]} channels in {dtype}, "
            f"got {key_dim} for keys and {value_dim} for values"
        )
    return None


def fused_obstacle(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> str | None:
    """Return why the kernels cannot run on these tensors, or None."""
    obstacle = device_obstacle(q.device)
    if obstacle is not None:
        return obstacle
    wide = [t for t in (q, col_bias, row_bias) if t.dtype == torch.float64]
    if k.dtype != v.dtype or wide:
        return f"k and v must share a dtype and nothing be float64, got {k.dtype}, {v.dtype}"
    obstacle = head_obstacle(k.dtype, q.shape[-1], v.shape[-1])
    if obstacle is not None:
        return obstacle
    largest = max(t.shape[-1] * t.shape[-2] for t in (q, k, v, col_bias, row_bias))
    programs = q.shape[0] * q.shape[1] * max(q.shape[2], k.shape[2])
    if max(largest, programs) > MAX_INDEX:
        return f"it counts in 32 bits, and got {largest} numbers of a map and {programs} positions in all"
    return None


@cache
def has_triton() -> bool:
    """Return whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


@cache
def triton_version() -> tuple[int, int]:
    """Return the major and the minor number of Triton's version."""
    import triton  # type: ignore[import-untyped]

    major, minor = re.findall(r"\d+", triton.__version__)[:2]
    return int(major), int(minor)


def _text(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}"


def has_c_compiler() -> bool:
    """Return whether there is a C compiler that Triton finds."""
    return "CC" in os.environ or any(map(shutil.which, ("gcc", "clang")))


def interpreted() -> bool:
    """Return whether Triton runs kernels in its interpreter, on the CPU: slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def arithmetic(dtype: torch.dtype) -> str:
    """Return how products of this dtype are computed: float32 in TF32 only where PyTorch's own products may be."""
    if dtype != torch.float32:
        return "half"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _base_2(q: Tensor, k: Tensor) -> Tensor:
    """Return the queries that give logits in base 2, in the dtype of the keys; rounded once."""
    return (q * LOG2E).to(k.dtype).contiguous()


def _by_query(row_bias: Tensor) -> Tensor:
    """Return (B, m, H) as contiguous (B, H, m): no copy where :class:`DecomposedPositions` made it."""
    return row_bias.mT.contiguous()


def _launch(name: str, tensors: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    """Run a pass of :data:`KERNELS` on the device of its tensors: q, k, v, col_bias, row_bias (B, H, m) and others."""
    from . import triton_kernels

    q, k, v, col, row = tensors[:5]
    maps, queries, height, width = *q.shape[:2], row.shape[1], col.shape[2]
    if not maps:
        return
    capability = MIN_CAPABILITY if interpreted() else torch.cuda.get_device_capability(q.device)
    options = kernel_options(name, arithmetic(k.dtype), k.shape[-1], v.shape[-1], width, capability[0])
    if name == "keys":
        programs = -(-height // options["ROWS"]) * -(-width // options["SEGMENT"])
    else:
        programs = -(-queries // options["QUERIES"])
    kernel = getattr(triton_kernels, KERNELS[name])
    with torch.cuda.device_of(q):  # Triton launches on the current device
        kernel[(maps * programs,)](*tensors, *outputs, queries, height, width, **options)


def _forward(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> tuple[Tensor, Tensor]:
    result = empty_like_heads(v, q.shape[1])
    out = v.new_empty(result.shape)
    lse = q.new_empty((*q.shape[:2], 1), dtype=torch.float32)
    biases = (col_bias.contiguous(), _by_query(row_bias))
    _launch("forward", (_base_2(q, k), k.contiguous(), v.contiguous(), *biases), (out, lse))
    return out if result.is_contiguous() else result.copy_(out), lse


def _backward(grad: Tensor, inputs: Tensors, out: Tensor, logsumexp: Tensor) -> Tensors:
    q, k, v, col_bias, row_bias = inputs
    mean = (grad.float() * out.float()).sum(-1)
    vectors = (_base_2(q, k), k.contiguous(), v.contiguous())
    col, row, grad = col_bias.contiguous(), _by_query(row_bias), grad.to(v.dtype).contiguous()
    tensors = (*vectors, col, row, grad, logsumexp, mean)
    dq, dk, dv = (t.new_empty(t.shape) for t in (q, k, v))
    dcol = torch.empty_like(col, dtype=torch.float32)
    drow = torch.zeros_like(row, dtype=torch.float32)
    _launch("queries", tensors, (dq, dcol, drow))
    _launch("keys", tensors, (dk, dv))
    return dq, dk, dv, dcol.to(col_bias.dtype), drow.to(row_bias.dtype).mT


fused_attention = recomputing_attention("fused", _forward, _backward)
"""(N, G, ·, ·) inputs -> (N, G, m, dv); products of vectors in the dtype of k and v."""
