"""The fused kernels: their logic in Triton's interpreter, which has a process of its own."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from exactness import make_inputs
from torch._subclasses.fake_tensor import FakeTensorMode

from lesa_d2.layers.attention import BACKENDS, describe_backend, fastest_backend, fused
from lesa_d2.layers.attention.fused import fused_obstacle
from lesa_d2.layers.attention.tiles import KERNELS

# Triton comes with PyTorch for CUDA on Linux; before 3.3 its interpreter fails with current NumPy.
pytest.importorskip("triton", minversion="3.3")
from lesa_d2.layers.attention import triton_kernels

HERE = Path(__file__).parent


def test_kernels_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(HERE / "interpreted_fused.py"),
    ]
    result = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


# ------------------------------------------------------------------------------------------ what stands against them


@contextlib.contextmanager
def fake_cuda(capability=(8, 0)):
    """Tensors of a GPU that is not here; nothing can run on them."""
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.version.cuda", "13.0"),
        mock.patch("torch.cuda.get_device_capability", return_value=capability),
        FakeTensorMode(),
    ):
        yield


def on_gpu(dtype=torch.bfloat16, key_dim=16, value_dim=32, size=(4, 5), maps=(1, 2)):
    """Inputs of the attention as they are on a GPU."""
    height, width = size
    shapes = (key_dim, key_dim, value_dim, width, height)
    dtypes = (torch.float32, dtype, dtype, torch.float32, torch.float32)
    return [
        torch.empty(*maps, height * width, last, dtype=of, device="cuda")
        for last, of in zip(shapes, dtypes, strict=True)
    ]


@pytest.mark.parametrize(
    "heads", [(6, 3), (12, 6), (16, 32), (32, 64), (64, 64), (64, 128), (96, 96), (128, 128)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_every_head_of_our_models_is_fused(capability, dtype, heads):
    with fake_cuda(capability):
        inputs = on_gpu(dtype, *heads)
        assert fused_obstacle(*inputs) is None
        assert fastest_backend(*inputs) is BACKENDS["fused"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"key_dim": 129}, "a head may have 128 channels"),
        ({"value_dim": 160}, "a head may have 128 channels"),
        ({"dtype": torch.float64}, "k and v must have one of"),
        ({"size": (1, 46341)}, "32 bits"),
        ({"size": (46341, 1)}, "32 bits"),
        ({"size": (1, 2), "maps": (2**16, 2**15)}, "32 bits"),
    ],
)
def test_what_the_kernels_cannot_compute(inputs, words):
    with fake_cuda():
        inputs = on_gpu(**inputs)
        assert words in fused_obstacle(*inputs)
        assert fastest_backend(*inputs) is not BACKENDS["fused"]


def test_many_maps_are_one_axis_of_programs():
    """The second axis of a grid ends at 65535."""
    with fake_cuda():
        assert fused_obstacle(*on_gpu(size=(2, 2), maps=(10000, 8))) is None


@pytest.mark.parametrize("capability", [(7, 5), (7, 0)])
def test_older_cards_are_served_block_by_block(capability):
    with fake_cuda(capability):
        inputs = on_gpu(torch.float32, size=(64, 64))
        assert f"this device has {capability}" in fused_obstacle(*inputs)
        assert fastest_backend(*inputs) is BACKENDS["blockwise"]


@pytest.mark.parametrize(
    ("capability", "backend", "dtype", "head", "words"),
    [
        ((8, 0), "auto", torch.bfloat16, (16, 32), "fused, products in bfloat16"),
        ((9, 0), "auto", torch.float32, (64, 128), "fused, products in float32"),
        ((7, 5), "auto", torch.float16, (16, 32), "(backend blockwise): it needs compute capability (8, 0)"),
        ((8, 0), "auto", torch.float16, (160, 160), "(backend blockwise): a head may have 128 channels"),
        ((8, 0), "sdpa", torch.float16, (16, 32), "sdpa, as configured"),
    ],
)
def test_what_computes_the_attention_is_said_before(capability, backend, dtype, head, words):
    with fake_cuda(capability):
        assert words in describe_backend(backend, torch.device("cuda"), dtype, head)
    on_cpu = describe_backend("auto", torch.device("cpu"), dtype, head)
    assert on_cpu == "exact, a few queries at a time (backend blockwise), on the CPU"


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch):
    """Triton launches on the current stream of the current device, which need not be that of the tensors."""
    guarded, launched = [], []

    @contextlib.contextmanager
    def device_of(tensor):
        guarded.append(tensor)
        yield
        guarded.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *tensors, **options: launched.append((grid, guarded[-1] is tensors[0]))

    for name in KERNELS.values():
        monkeypatch.setattr(triton_kernels, name, Kernel())
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    inputs = make_inputs(1, 2, 40, 64, 16, 32, torch.bfloat16)
    fused.fused_attention(*inputs).sum().backward()
    assert [(len(grid), is_guarded) for grid, is_guarded in launched] == 3 * [(1, True)]


def test_a_compiler_is_needed_by_older_versions_of_triton(monkeypatch):
    monkeypatch.setattr(fused.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    with fake_cuda():
        for number, words in (((3, 5), "install gcc or clang"), ((3, 1), "it needs Triton 3.2 or newer")):
            monkeypatch.setattr(fused, "triton_version", lambda number=number: number)
            assert words in fused_obstacle(*on_gpu())
        monkeypatch.setattr(fused, "triton_version", lambda: (3, 6))
        assert fused_obstacle(*on_gpu()) is None
        monkeypatch.setattr(fused, "triton_version", lambda: (3, 5))
        monkeypatch.setenv("CC", "mycc")
        assert fused_obstacle(*on_gpu()) is None


def test_float32_is_exact_unless_it_is_asked_for():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert fused.arithmetic(torch.float32) == "ieee"
        torch.set_float32_matmul_precision("high")
        assert fused.arithmetic(torch.float32) == "tf32"
        assert fused.arithmetic(torch.bfloat16) == "half"
    finally:
        torch.set_float32_matmul_precision(before)
