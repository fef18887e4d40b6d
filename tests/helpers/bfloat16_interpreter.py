"""Make Triton's interpreter compute bfloat16 as a GPU does; importing this changes the interpreter.

It keeps bfloat16 as bit patterns, and would multiply those, and cut off float32 instead of rounding it.
"""

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

BUILDER = interpreter.InterpreterBuilder
_dot, _cast = BUILDER.create_dot, BUILDER.cast_impl


def _as_float32(handle):
    if handle.dtype.scalar != tl.bfloat16:
        return handle.data
    return (handle.data.astype(np.uint32) << 16).view(np.float32)


def _dot_of_values(self, a, b, accumulator, *precision):
    if a.dtype.scalar != tl.bfloat16:
        return _dot(self, a, b, accumulator, *precision)
    product = np.matmul(_as_float32(a), _as_float32(b))
    return interpreter.TensorHandle(product + accumulator.data, accumulator.dtype.scalar)


def _rounding_cast(self, source, to):
    if source.dtype.scalar != tl.float32 or to.scalar != tl.bfloat16:
        return _cast(self, source, to)
    rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
    return interpreter.TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), to.scalar)


BUILDER.create_dot, BUILDER.cast_impl = _dot_of_values, _rounding_cast
