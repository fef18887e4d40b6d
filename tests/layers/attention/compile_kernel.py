"""Compiles a kernel for a compute capability; no device is needed.  Prints the machine code's size."""

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lesa_d2.layers.attention import triton_kernels

CONSTANTS = {"D": 16, "DP": 16, "DV": 32, "DVP": 32, "QUERIES": 64, "SEGMENT": 32, "PRECISION": "ieee"}
VECTORS = ("q", "k", "v", "grad", "out", "dq", "dk", "dv")


def kind(argument: str) -> str:
    if argument in CONSTANTS:
        return "constexpr"
    if not argument.endswith("_ptr"):
        return "i32"
    return "*bf16" if argument.removesuffix("_ptr") in VECTORS else "*fp32"


if __name__ == "__main__":
    name, capability = sys.argv[1:]
    kernel = getattr(triton_kernels, name)
    source = ASTSource(
        fn=kernel,
        signature={argument: kind(argument) for argument in kernel.arg_names},
        constexprs={(kernel.arg_names.index(name),): value for name, value in CONSTANTS.items()},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", int(capability), 32), options={"num_warps": 8})
    print(len(compiled.asm["cubin"]))
