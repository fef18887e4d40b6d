"""Count, on a CPU, where a program would wait for a GPU.

Every tensor counts as one of the device, unless it was copied to the host, or computed from such tensors alone.  The
program waits where it reads a value of the device, where the shape of a result depends on values, and where it copies
numbers from the host without pinned memory.
"""

import sys
from collections import Counter
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

READ = {
    Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__bool__, Tensor.__float__, Tensor.__int__,
    Tensor.__index__, Tensor.__array__, Tensor.__contains__, Tensor.is_nonzero, torch.is_nonzero,
    Tensor.equal, torch.equal, Tensor.allclose, torch.allclose,
}  # fmt: skip
SIZED_BY_VALUES = {
    Tensor.nonzero, torch.nonzero, Tensor.masked_select, torch.masked_select, Tensor.unique, torch.unique,
    Tensor.unique_consecutive, torch.unique_consecutive, Tensor.argwhere, torch.argwhere, Tensor.bincount,
    torch.bincount, torch.repeat_interleave, Tensor.repeat_interleave, torch.ops.torchvision.nms,
}  # fmt: skip
UPLOADS = {torch.tensor, torch.as_tensor, torch.from_numpy}
LIBRARIES = tuple(str(Path(library.__file__).parent) for library in (torch, torchvision))


class CountWaits(TorchFunctionMode):
    """Count, while open, the waits by the innermost file outside torch and torchvision.

    Attributes:
        waits: (file, line, function of torch) -> number.
    """

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def by(self, package):
        """The waits of the files of ``package``, readable."""
        return {
            f"{file.rpartition(f'/{package}/')[2]}:{line} {name}": number
            for (file, line, name), number in self.waits.items()
            if f"/{package}/" in file
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in given if not is_on_host(tensor)]
        out = func(*args, **kwargs)
        to_host = is_copy_to_host(func, args, kwargs)
        if to_host and out is args[0]:  # which stays on the device
            out = out.view_as(out)
        if waits(func, args, kwargs, on_device) or (to_host and on_device):
            self.waits[(*caller(), getattr(func, "__name__", str(func)))] += 1
        if to_host or (given and not on_device):
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    leaf.is_on_host = True
        return out


def is_on_host(tensor):
    """Whether a tensor was copied to the host, or computed from such tensors alone."""
    return getattr(tensor, "is_on_host", False)


def is_copy_to_host(func, args, kwargs):
    """Whether a call returns a tensor of the host, whatever it is given."""
    return func is Tensor.cpu or (func is Tensor.to and "cpu" in (*args[1:], *kwargs.values()))


def waits(func, args, kwargs, on_device):
    """Whether a call, other than a copy to the host, waits for the device."""
    if func in UPLOADS:
        return kwargs.get("device") is not None and not isinstance(args[0], Tensor)
    if not on_device:
        return False
    if func in (Tensor.__getitem__, Tensor.__setitem__):
        return selects_by_mask(func, args)
    if func in (torch.where, Tensor.where):
        return len(args) == 1
    if func is torch.repeat_interleave or func is Tensor.repeat_interleave:
        return isinstance(kwargs.get("repeats", args[1]), Tensor) and kwargs.get("output_size") is None
    return func in READ or func in SIZED_BY_VALUES


def selects_by_mask(func, args):
    """Whether an index is a mask whose number of elements has to be known; to fill by a single mask needs none."""
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    masks = [i for i in index if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) and i.dim()]
    if any(isinstance(end, Tensor) for i in index if isinstance(i, slice) for end in (i.start, i.stop)):
        return True
    fills = func is Tensor.__setitem__ and not (isinstance(args[2], Tensor) and args[2].dim())
    return bool(masks) and not (fills and len(index) == 1)


def caller():
    """File and line of the innermost frame outside torch, torchvision and this file."""
    frame = sys._getframe(1)
    while frame.f_back and (
        frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(LIBRARIES)
    ):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
