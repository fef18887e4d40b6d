"""One step of any model on generated inputs: how much memory it takes, and how many FLOPs.

The model's own code runs: forward pass, losses and backward pass in training, everything up to the final
predictions in inference.  On the CPU every storage is followed by a weak reference, and the operators that take
nearly all the time (convolutions, matrix products, attention) are not computed: their outputs have the right
shapes and small random numbers or zeros.  What depends on numbers, such as sampling and non-maximum suppression,
is computed from those.  On a GPU the step is computed as it is and the allocator is asked.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from ...compat import CPU_ATTENTION, DEFORM_CONV_BACKWARD, TorchDispatchMode, tree_leaves, tree_map_only
from ...config.lazy import lesa_backbones, nodes, parameters
from ...layers.attention.blockwise import BLOCK_LOGITS

Size = tuple[int, int]
OBJECTS = 12  # of a generated image
RANDOM_NUMBERS = 2**18  # outputs up to this size get random numbers, so that scores and boxes differ


def prepare_config(cfg: DictConfig) -> None:
    """Make an untrained model handle as many regions as a trained one handles at most, in place.

    In training every proposal that touches an object counts as one, so that as many are sampled as can be.  In
    inference no score is too low.  Images are generated at the size that the model pads them to.
    """
    for _, node in nodes(cfg.model):
        for matcher in _listed(node.get("proposal_matcher") or node.get("proposal_matchers")):
            matcher.thresholds = [0.01] * len(matcher.thresholds)
        if "test_score_thresh" in parameters(node):
            node.test_score_thresh = 0.0
        if node.get("square_pad"):
            node.square_pad = 0
    if not torch.cuda.is_available():
        for node in lesa_backbones(cfg).values():
            if node.get("backend") == "fused":  # cannot be built without such a GPU, and takes as much memory
                node.backend = "blockwise"


def _listed(value: Any) -> list[Any]:
    return list(value) if OmegaConf.is_list(value) else [value] if value is not None else []


@contextlib.contextmanager
def _generated_numbers() -> Iterator[None]:
    """Draw the same numbers in every step, and leave those of the program alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@_generated_numbers()
def generate_inputs(cfg: DictConfig, images: int, size: Size) -> Any:
    """Return a batch for the config's model: images of ``size`` (H, W) with all the truth that it learns from."""
    channels = len(cfg.model.pixel_mean)
    pixels = torch.randint(0, 256, (images, channels, *size), dtype=torch.uint8)
    if cfg.train.task == "classification":
        return {"image": pixels, "label": torch.zeros(images, dtype=torch.long)}
    truth = {"sem_seg": torch.zeros(size, dtype=torch.long), "height": size[0], "width": size[1]}
    return [{"image": image, "instances": _objects(cfg, size), **truth} for image in pixels]


def _objects(cfg: DictConfig, size: Size) -> Instances:
    """Return objects in the left half of an image; what lies in the right half is background."""
    height, width = size
    whole = torch.tensor([width, height])
    corner = torch.rand(OBJECTS, 2) * torch.tensor([0.4, 0.9])
    boxes = torch.cat([corner * whole, (corner + 0.05 + 0.05 * torch.rand(OBJECTS, 2)) * whole], 1)
    found = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.zeros(OBJECTS, dtype=torch.long))
    for _, node in nodes(cfg.model):
        if node.get("mask_head") is not None or node.get("mask_heads") is not None:
            found.gt_masks = _masks(cfg, boxes, size)
        if node.get("num_keypoints") is not None:
            found.gt_keypoints = Keypoints(_keypoints(boxes, node.num_keypoints))
    return found


def _masks(cfg: DictConfig, boxes: Tensor, size: Size) -> BitMasks | PolygonMasks:
    if OmegaConf.select(cfg, "dataloader.train.mapper.instance_mask_format") == "bitmask":
        return BitMasks(torch.ones(OBJECTS, *size, dtype=torch.bool))
    return PolygonMasks([[box[[0, 1, 2, 1, 2, 3, 0, 3]].numpy()] for box in boxes])


def _keypoints(boxes: Tensor, number: int) -> Tensor:
    """Return visible keypoints (objects, number, 3) around the boxes, so that what touches a box has one."""
    way = torch.linspace(0, 4, number)  # of the four sides
    x = torch.minimum(way.clamp(0, 1), (3 - way).clamp(0, 1))
    y = torch.minimum((way - 1).clamp(0, 1), (4 - way).clamp(0, 1))
    corner, extent = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return torch.cat([corner + torch.stack([x, y], 1) * extent, torch.full((OBJECTS, number, 1), 2.0)], 2)


@dataclass(frozen=True)
class StepCost:
    """Hold what a step took.

    Attributes:
        peaks: the most bytes above weights and inputs, between one moment and the next, by the moment's name: a
            module is left, a parameter gets its gradient.
        flops: of the forward pass, by module.
        made: bytes of all storages that an operator made, by the operator's name; empty on a GPU.
    """

    peaks: dict[str, int] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)


def measure_step(model: nn.Module, inputs: Any, precision: torch.dtype = torch.float32) -> StepCost:
    """Run a step of a model, in the mode that it is in, and measure it.

    Args:
        model: on the device to be measured; its gradients are replaced.
        inputs: of :func:`generate_inputs`.
        precision: other than float32, modules run under autocast.
    """
    device = next(model.parameters()).device.type
    model.zero_grad(set_to_none=True)
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    tensors = [*model.parameters(), *model.buffers()]
    memory = AllocatedMemory() if device == "cuda" else LiveMemory(tensors, counter.flop_registry)
    cost = StepCost(made=memory.made)

    def mark(name: str) -> None:
        cost.peaks[name] = max(cost.peaks.get(name, 0), memory.take_peak())

    with _generated_numbers(), EventStorage(), _moments(model, mark), memory:
        with (
            torch.set_grad_enabled(model.training),
            torch.autocast(device, precision, precision.itemsize < 4),
        ):
            with counter:
                out = model(inputs)
            if model.training:
                sum(out.values()).backward()
        mark("end")
    for name, counts in counter.get_flop_counts().items():
        cost.flops[name.partition(".")[2]] = sum(counts.values())
    return cost


@contextlib.contextmanager
def _moments(model: nn.Module, mark: Callable[[str], None]) -> Iterator[None]:
    """Call ``mark`` whenever a module has been run and whenever a parameter's gradient is there."""
    names = {module: name for name, module in model.named_modules()}
    handles = [register_module_forward_hook(lambda module, inputs, out: mark(names.get(module, "")))]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hook = parameter.register_post_accumulate_grad_hook
            handles.append(hook(lambda _, name=f"gradient of {name}": mark(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class AllocatedMemory(contextlib.AbstractContextManager):
    """Measure what PyTorch allocates on the GPU."""

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

    def __exit__(self, *error: object) -> None:
        """Leave nothing behind."""

    def take_peak(self) -> int:
        """Return the most bytes since the last call."""
        peak = torch.cuda.max_memory_allocated() - self.before
        torch.cuda.reset_peak_memory_stats()
        return peak


class LiveMemory(TorchDispatchMode):
    """While active, count the bytes of the storages that operators make, and of their workspaces.

    Attributes:
        live: bytes of the storages that are still there.
        made: bytes of all storages that an operator made, by the operator's name.
    """

    def __init__(self, existing: Iterable[Tensor], not_computed: Iterable[Any]) -> None:
        """Follow all storages but those of ``existing``; leave some operators, by packet, without numbers."""
        super().__init__()
        self.live = self._peak = 0
        self.made: dict[str, int] = {}
        self._not_computed = {*not_computed, *WORKSPACES}
        self._known: weakref.WeakSet = weakref.WeakSet()
        self._ignore(existing)

    def take_peak(self) -> int:
        """Return the most bytes since the last call."""
        peak, self._peak = self._peak, self.live
        return peak

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run or replace an operator, and follow what it makes."""
        self._ignore(tree_leaves((args, kwargs)))
        packet = func.overloadpacket
        run = _without_numbers if packet in self._not_computed else _as_it_is
        out = run(func, args, kwargs or {})
        made = sum(map(self._follow, tree_leaves(out)))
        self.made[str(packet)] = self.made.get(str(packet), 0) + made
        workspace = WORKSPACES[packet](args, out) if packet in WORKSPACES else 0
        self._peak = max(self._peak, self.live + workspace)
        return out

    def _ignore(self, values: Iterable[Any]) -> None:
        self._known.update(value.untyped_storage() for value in values if isinstance(value, Tensor))

    def _follow(self, value: Any) -> int:
        """Return the bytes of a storage that was not there before, and count them until it is freed."""
        if not isinstance(value, Tensor) or value.untyped_storage() in self._known:
            return 0
        storage = value.untyped_storage()
        self._known.add(storage)
        self.live += storage.nbytes()
        weakref.finalize(storage, self._forget, storage.nbytes())
        return storage.nbytes()

    def _forget(self, size: int) -> None:
        self.live -= size


def _as_it_is(func: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    return func(*args, **kwargs)


def _without_numbers(func: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """Return outputs of the operator's shapes and types: small random numbers, or zeros where they are many."""
    device = next(value.device for value in tree_leaves(args) if isinstance(value, Tensor))
    args, kwargs = tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), (args, kwargs))

    def numbers(shaped: Tensor) -> Tensor:
        out = torch.zeros_like(shaped, device=device)
        return out.uniform_(-0.01, 0.01) if out.numel() <= RANDOM_NUMBERS else out

    return tree_map_only(Tensor, numbers, func(*args, **kwargs))


def _bytes(*tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def _attention_forward(args: tuple, out: Any) -> int:
    """Return the bytes of contiguous inputs and of the block of logits of each thread."""
    return _bytes(*args[:3]) + _blocks(args[0], args[1], buffers=1)


def _attention_backward(args: tuple, out: Any) -> int:
    """Return the bytes of contiguous inputs, two thin products, and of the two blocks of logits of each thread."""
    grad, q, k, v, col_bias = args[:5]
    return _bytes(q, k, grad, grad, v, col_bias) + _blocks(q, k, buffers=2)


def _blocks(q: Tensor, k: Tensor, buffers: int) -> int:
    most = BLOCK_LOGITS * torch.get_num_threads()
    return min(most, buffers * q.shape[0] * q.shape[1] * k.shape[1]) * 4


def _deform_forward(args: tuple, out: Any) -> int:
    """Return the bytes of torchvision's columns: a deformed patch of the input for every output position."""
    input, weight = args[:2]
    groups = input.shape[1] // weight.shape[1]
    positions = out.shape[0] * out.shape[2] * out.shape[3]
    return groups * positions * weight[0].numel() * out.element_size() + _bytes(out)


def _deform_backward(args: tuple, out: Any) -> int:
    return _deform_forward(args[1:], args[0])


WORKSPACES: dict[Any, Callable[[tuple, Any], int]] = {
    torch.ops.lesa_d2.blockwise_attention: _attention_forward,
    torch.ops.lesa_d2.blockwise_attention_backward: _attention_backward,
    # oneDNN copies maps to its own layout, which is neither NCHW nor quite NHWC.
    torch.ops.aten.convolution: lambda args, out: _bytes(args[0], out),
    torch.ops.aten.convolution_backward: lambda args, out: _bytes(*args[:2]),
    torch.ops.torchvision.deform_conv2d: _deform_forward,
    DEFORM_CONV_BACKWARD: _deform_backward,
}
"""Operator -> (arguments, output) -> bytes that it takes inside, on the CPU."""


def attention_flops(q: Size, k: Size, v: Size, *args: Any, **kwargs: Any) -> int:
    """Return the FLOPs of the plain formula, by the shapes (…, n, d) of queries, keys and values."""
    return 2 * torch.Size(q[:-1]).numel() * k[-2] * (q[-1] + v[-1])


def deform_conv_flops(input: Size, weight: Size, *args: Any, out_shape: Size, **kwargs: Any) -> int:
    """Return the FLOPs of the convolution; finding the samples between pixels is not counted."""
    return 2 * torch.Size(out_shape).numel() * torch.Size(weight[1:]).numel()


FORMULAS = {
    torch.ops.torchvision.deform_conv2d: deform_conv_flops,
    torch.ops.lesa_d2.blockwise_attention: attention_flops,
    torch.ops.lesa_d2.fused_attention: attention_flops,
    CPU_ATTENTION: attention_flops,
}
"""Operators that torch's counter does not know."""
