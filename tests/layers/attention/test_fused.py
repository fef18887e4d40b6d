"""The fused kernels: their logic in Triton's interpreter, their code compiled for devices, without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Triton comes with PyTorch for CUDA on Linux; before 3.3 its interpreter fails with current NumPy.
pytest.importorskip("triton", minversion="3.3")
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


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "kernel", ["attention_forward", "attention_backward_queries", "attention_backward_keys"]
)
def test_kernels_compile(kernel, capability):
    """The whole way to machine code for bfloat16 vectors and float32 biases."""
    command = [sys.executable, str(HERE / "compile_kernel.py"), kernel, str(capability)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) > 1000, "bytes of machine code"
