"""Read and write safetensors files: a header in JSON, then the numbers of each tensor, one after the other."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, listed

TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
NAMES = {kind: name for name, kind in TYPES.items()}
LENGTH = 8
"""Bytes that state the length of the header, the lowest first."""


def is_safetensors(start: bytes) -> bool:
    """Tell from the first bytes of a file whether it is one: a header of less than 4 GB, in JSON."""
    return start[LENGTH // 2 : LENGTH + 1] == bytes(LENGTH // 2) + b"{"


def read_safetensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors by name that the content of a file holds, on the CPU.

    Raises:
        ValueError: the header does not fit the file: positions outside of it, gaps, overlaps, another number of
            bytes than a tensor's shape and type need, or a type that is not known.
    """
    length = int.from_bytes(content[:LENGTH], "little")
    numbers = content[LENGTH + length :]
    if len(content) < LENGTH + length:
        raise ValueError(f"a header of {length} bytes, in a file of {len(content)}")
    header = json.loads(content[LENGTH : LENGTH + length])
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        kind, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind not in TYPES or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"{name} has the type {kind!r} and the shape {shape!r}")
        expected = math.prod(shape) * TYPES[kind].itemsize
        if (start, stop) != (end, end + expected) or stop > len(numbers):
            raise ValueError(
                f"{name} at bytes {start} to {stop} of {len(numbers)}; expected {end} to {end + expected}"
            )
        raw = bytearray(numbers[start:stop])
        flat = torch.frombuffer(raw, dtype=TYPES[kind]) if raw else torch.empty(0, dtype=TYPES[kind])
        tensors[name], end = flat.view(shape), stop
    if end != len(numbers):
        raise ValueError(f"{len(numbers) - end} bytes that belong to no tensor")
    return tensors


def write_safetensors(weights: Mapping[str, Tensor], file: str | Path) -> None:
    """Write tensors by name to a file.

    Raises:
        CheckpointError: a tensor has a type that the format does not know.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, value in weights.items():
        if value.dtype not in NAMES:
            raise CheckpointError(
                f"{name} has the type {value.dtype}; safetensors files hold {listed(list(TYPES))}"
            )
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % LENGTH)  # so that the numbers are aligned
    with open(file, "wb") as content:
        content.write(len(text).to_bytes(LENGTH, "little") + text)
        for value in weights.values():
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            content.write(raw.numpy().tobytes())
