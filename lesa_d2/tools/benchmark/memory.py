"""How much memory a step takes, without taking it: the step is run on tensors that have sizes but no numbers.

Every storage that the step makes is followed by a weak reference, so that what autograd keeps, what
activation checkpointing drops and makes again, and what is freed on the way are all seen as they are.  What
operators use inside, a formula each gives (:data:`WORKSPACES`).
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...layers.attention.blockwise import BLOCK_LOGITS
from .passes import Pass, Regions, explained_failures, padded_size, parts


class LiveMemory(TorchDispatchMode):
    """While active, counts the bytes of the storages that operations make, and of their workspaces.

    Attributes:
        live: bytes of those that are still there.
        peak: the most there were at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        before = self.live
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self.ignore(tensor)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor)
        workspace = WORKSPACES.get(getattr(func, "_overloadpacket", None))
        inside = workspace(args, out) if workspace else 0
        self.peak = max(self.peak, self.live, before + inside + (self.live - before))
        return out

    def ignore(self, tensor: Tensor) -> None:
        """Not to be counted: it was there before, as inputs and weights."""
        self._remember(tensor, 0)

    def _follow(self, tensor: Tensor) -> None:
        self._remember(tensor, tensor.untyped_storage().nbytes())

    def _remember(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return

        def forget(_: object) -> None:
            if self._known.pop(key, None) is not None:
                self.live -= size

        self._known[key] = weakref.ref(storage, forget)
        self.live += size


def _bytes(*tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def _attention_forward(args: tuple, out: Any) -> int:
    """Contiguous inputs and a block of logits a thread."""
    return _bytes(*args[:3]) + _block(args[0])


def _attention_backward(args: tuple, out: Any) -> int:
    """Contiguous inputs, two thin products, and two blocks of logits a thread."""
    grad, q, k, v, col_bias = args[:5]
    return _bytes(q, k, grad, grad, v, col_bias) + 2 * _block(q)


def _block(q: Tensor) -> int:
    return min(BLOCK_LOGITS * torch.get_num_threads(), q.shape[0] * q.shape[1] ** 2) * 4


def _columns(args: tuple, output: Tensor) -> int:
    """torchvision's columns: a deformed patch of the input for every position of the output."""
    weight = args[1]
    return output.shape[0] * output.shape[2] * output.shape[3] * weight[0].numel() * output.element_size()


def _deform_forward(args: tuple, out: Any) -> int:
    groups = args[0].shape[1] // args[1].shape[1]
    return groups * _columns(args, out) + _bytes(out)


def _deform_backward(args: tuple, out: Any) -> int:
    grad, input, weight = args[:3]
    groups = input.shape[1] // weight.shape[1]
    return groups * _columns((input, weight), grad) + _bytes(grad)


def _convolution(args: tuple, out: Any) -> int:
    """oneDNN's copies of maps in its own layout, which is that of neither NCHW nor, all the way, NHWC."""
    return _bytes(args[0], out)


def _convolution_backward(args: tuple, out: Any) -> int:
    return _bytes(*args[:2])


WORKSPACES: dict[Any, Callable[[tuple, Any], int]] = {
    torch.ops.lesa_d2.blockwise_attention: _attention_forward,
    torch.ops.lesa_d2.blockwise_attention_backward: _attention_backward,
    torch.ops.aten.convolution: _convolution,
    torch.ops.aten.convolution_backward: _convolution_backward,
    torch.ops.torchvision.deform_conv2d: _deform_forward,
    torch.ops.torchvision._deform_conv2d_backward: _deform_backward,
}
"""Operator -> (arguments, output) -> bytes that it takes inside, on the CPU."""


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """While open, tensors that are made have shapes, types and devices, but no memory."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def step_memory(
    build: Callable[[], nn.Module],
    size: tuple[int, int],
    images: int,
    regions: Regions | None,
    *,
    precision: torch.dtype = torch.float32,
    bit_masks: bool = True,
) -> int:
    """Bytes that a step adds to inputs and weights at its peak.

    Args:
        build: makes the model, in the mode (training or not) it is to be run in, its poolers spread evenly.
        size: (H, W) of the images, before padding.
        images: of one pass.
        regions: see :class:`Regions`.
        precision: other than float32, modules run under autocast.
        bit_masks: see :class:`Pass`.

    Raises:
        ConfigError: see :func:`.cost.part_costs`.
    """
    with explained_failures(size, images), without_numbers():
        model = build()
        pixels = torch.empty(images, 3, *padded_size(model, size))
        with torch.set_grad_enabled(model.training), LiveMemory() as memory:
            memory.ignore(pixels)
            for tensor in (*model.parameters(), *model.buffers()):
                memory.ignore(tensor)
            run = Pass(model, pixels.clone(), regions, bit_masks)
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                for _ in parts(run):
                    pass
            if model.training:
                run.features = {}
                torch.autograd.backward(run.losses)
        return memory.peak
