"""Turn the weights of a trained convolutional ResNet into the start of one with an operator in its slots.

Everything outside the slots is copied.  In a slot the dense 3×3 becomes the operator's unary term
(:mod:`.factorisation`), and its norm becomes the norm of that term, or the trailing norm of an operator that has one.
The binary term starts silent: weight and bias of its output's norm are zero, while their gradients are not.

With images, each factorisation is fitted to what the convolutional network computes on them, and the statistics of
all norms behind the first slot are estimated on them.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone import ResNet
from torch import Tensor, nn

from ..errors import CheckpointError, listed
from ..layers import SlotOperator
from ..layers.baselines import AttentionAugmentation
from ..layers.binary import BinaryTerm
from ..layers.deform import DeformableConv2d
from ..layers.folding import BATCH_NORM_TENSORS, stored_affine
from ..layers.norm import BatchNorm
from ..layers.unary import UnaryTerm
from ..modeling.statistics import estimate_statistics
from .architecture import RES4_STRIDE
from .factorisation import (
    Factors,
    PatchMoments,
    ProjectionFit,
    box_filtered,
    box_fitted,
    factorise,
)
from .names import COUNTER
from .report import SlotStart, slots_table

MAY_DIFFER = re.compile(rf"linear\..*|.*\.{COUNTER}")
"""Names of what a file may lack or have in another shape: the classes, and counters, which FrozenBN does not have."""
OFFSET = re.compile(r".*\.offset\.(weight|bias)")
MAP_BYTES = 2**31
"""Of the logits of one layer while statistics are estimated."""
UNFROZEN = (
    "Choose norm=EvalBN instead of FrozenBN, which is the same with a trained weight and bias, and a freeze_at of at "
    "most 3"
)
COPIED, FRESH_VALUE = "copied", "initial value"


@dataclass(frozen=True)
class ConvolutionStart:
    """Hold the complete weights of a backbone that starts from a convolutional one.

    ``notes`` say of each tensor whether it is copied, converted and how, or at its initial value; ``slots`` report
    on the slots.
    """

    weights: dict[str, Tensor]
    notes: dict[str, str]
    slots: list[SlotStart]

    def table(self) -> str:
        """Return a table with a row a slot."""
        return slots_table(self.slots)


def slot_operators(backbone: nn.Module) -> dict[str, SlotOperator]:
    """Return the operators in the slots of a backbone by name, such as ``res4.1.conv2``."""
    return {name: module for name, module in backbone.named_modules() if isinstance(module, SlotOperator)}


def convolution_to_lesa(
    state_dict: Mapping[str, Tensor], backbone: ResNet, images: Sequence[Tensor] = ()
) -> ConvolutionStart:
    """Convert the weights of a convolutional ResNet to a start of ``backbone``, which stays unchanged.

    Args:
        state_dict: the convolutional network's, under the names of ``backbone``; its ``linear`` may be missing or
            have another number of classes.  Its 3×3 convolutions may have groups and offsets.
        backbone: of :func:`lesa_d2.modeling.build_lesa_resnet`; what the file cannot give keeps its values.
        images: batches, normalised as the network expects, (N, 3, H, W) each.  Without any, the factorisation knows
            the weights alone, and the statistics of norms stay those of the convolutional network.

    Raises:
        CheckpointError: these are not the weights of a convolutional ResNet of this architecture, norms of the
            operators are frozen, or the images are too small.
    """
    target = copy.deepcopy(backbone).float().eval()
    operators = slot_operators(target)
    source = _convolutional(target, operators, state_dict)
    slots = {
        name: slot_class(operator)(source.get_submodule(name), operator)
        for name, operator in operators.items()
    }
    if images and slots:
        fitted, held_out = _split(images)
        _run(source, {slot: slot.see_inputs for slot in slots.values()}, fitted)
        _run(source, {slot: slot.see_outputs for slot in slots.values()}, fitted)
        _run(source, {slot: slot.see_held_out for slot in slots.values()}, held_out)
    notes = _copy_outside(source, target, state_dict, slots)
    for slot in slots.values():
        slot.fill()
    if images and slots:
        estimate_behind(next(iter(slots)), target, images)
    weights, initial = target.state_dict(), backbone.state_dict()
    notes |= {
        name: "statistics of the images"
        for name, note in notes.items()
        if note == COPIED
        and "running_" in name
        and not torch.equal(weights[name], state_dict[name].to(weights[name]))
    }
    for name, slot in slots.items():
        for key in weights:
            if key.startswith(f"{name}."):
                notes[key] = FRESH_VALUE if torch.equal(weights[key], initial[key]) else slot.how
    return ConvolutionStart(weights, notes, [slot.report(name) for name, slot in slots.items()])


def _split(images: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the batches to fit to, and about a quarter to measure on; a single image serves for both."""
    batches = list(images) if len(images) > 1 else list(images[0].chunk(2))
    held_out = max(1, len(batches) // 4)
    return batches[:-held_out] or batches, batches[-held_out:]


def _run(
    source: nn.Module, see: Mapping["Slot", Callable[[Tensor, Tensor], None]], images: Iterable[Tensor]
) -> None:
    """Run the convolutional network on images, and show each slot the input and output of its convolution."""
    inputs: dict[Slot, Tensor] = {}
    handles = []
    for slot, show in see.items():
        handles.append(
            slot.conv.register_forward_pre_hook(lambda _, x, slot=slot: inputs.update({slot: x[0]}))
        )
        handles.append(
            slot.conv.norm.register_forward_pre_hook(
                lambda _, y, slot=slot, show=show: show(inputs[slot], y[0])
            )
        )
    device = next(source.parameters()).device
    try:
        with torch.no_grad():
            for image in images:
                source(image.to(device).float())
    finally:
        for handle in handles:
            handle.remove()


def estimate_behind(name: str, backbone: nn.Module, images: Sequence[Tensor]) -> None:
    """Estimate, in place, the statistics of the batch norms from the module of this name on.

    Args:
        name: of a module of the backbone.
        backbone: takes images.
        images: batches, normalised as the network expects, (N, 3, H, W) each.

    Raises:
        CheckpointError: one of the norms is FrozenBN, whose statistics are fixed, or the images are too small.
    """
    modules = dict(backbone.named_modules())
    behind = list(modules)[list(modules).index(name) :]
    frozen = [key for key in behind if isinstance(modules[key], FrozenBatchNorm2d)]
    if frozen:
        raise CheckpointError(
            f"the statistics of {frozen[0]} must be estimated, and it is frozen. {UNFROZEN}"
        )
    device = next(backbone.parameters()).device
    parts = [part.to(device).float() for image in images for part in _in_parts(image, backbone)]
    norms = [modules[key] for key in behind if isinstance(modules[key], BatchNorm)]
    try:
        estimate_statistics(backbone, parts, norms)
    except ValueError as error:  # a map of one position has no variance
        raise CheckpointError(
            f"the statistics of norms cannot be estimated on images as small as {tuple(images[0].shape[2:])}: {error}. "
            "Give larger ones"
        ) from error


def _in_parts(images: Tensor, backbone: nn.Module) -> tuple[Tensor, ...]:
    """Split a batch so that the logits of all pairs of positions, whose norm is called with them, fit into memory."""
    positions = (images.shape[2] // RES4_STRIDE) * (images.shape[3] // RES4_STRIDE)
    heads = max((operator.num_heads for operator in slot_operators(backbone).values()), default=1)
    maps = 2 * heads * positions**2 * images.element_size()  # of an image, of the two terms of the logits
    return images.split(max(1, MAP_BYTES // max(1, maps)))


def _convolutional(
    backbone: nn.Module, operators: Mapping[str, SlotOperator], state_dict: Mapping[str, Tensor]
) -> nn.Module:
    """Return the convolutional network that ``backbone`` is without its operators, with the weights of the file.

    Its convolutions in the slots have no groups: grouped ones are written as dense ones.

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    source = copy.deepcopy(backbone)
    weights = dict(state_dict)
    for name, operator in operators.items():
        kernel = weights.get(f"{name}.weight")
        if kernel is not None and kernel.dim() == 4:
            weights[f"{name}.weight"] = _dense(kernel, operator.in_channels)
        conv = _convolution(operator, deformable=f"{name}.offset.weight" in weights)
        source.set_submodule(name, conv.to(next(operator.parameters()).device))
    expected = source.state_dict()
    weights = {key: value for key, value in weights.items() if not _is_beyond(key, source)}
    ours, theirs = ({key for key in names if not MAY_DIFFER.fullmatch(key)} for names in (expected, weights))
    faults = [f"{key} is missing" for key in sorted(ours - theirs) if not OFFSET.fullmatch(key)]
    faults += [f"{key} is unknown" for key in sorted(theirs - ours)]
    faults += [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in sorted(ours & theirs)
        if weights[key].shape != expected[key].shape
    ]
    if faults:
        raise CheckpointError(
            f"not the weights of a convolutional ResNet of this architecture: {listed(faults)}"
        )
    fitting = {
        key: weights[key]
        for key, value in expected.items()
        if key in weights and weights[key].shape == value.shape
    }
    source.load_state_dict(fitting, strict=False)
    return source


def _is_beyond(key: str, backbone: nn.Module) -> bool:
    """Return whether a tensor belongs to a stage that the backbone does not build, as its output is not asked for."""
    stage = key.partition(".")[0]
    return re.fullmatch(r"res[2-5]", stage) is not None and not hasattr(backbone, stage)


def _convolution(operator: SlotOperator, deformable: bool) -> nn.Module:
    """Return the 3×3 convolution in whose place the operator is, with its norm."""
    conv_class = DeformableConv2d if deformable else Conv2d
    norm = nn.BatchNorm2d(operator.out_channels).eval()
    return conv_class(
        operator.in_channels,
        operator.out_channels,
        3,
        stride=operator.stride,
        padding=1,
        bias=False,
        norm=norm,
    )


def _dense(kernel: Tensor, in_channels: int) -> Tensor:
    """Write a grouped kernel (C', C/K, 3, 3) as a dense one (C', C, 3, 3) with zeros between the groups."""
    groups, rest = divmod(in_channels, kernel.shape[1])
    if rest or groups == 1 or kernel.shape[0] % groups:
        return kernel
    blocks = kernel.new_zeros(groups, len(kernel) // groups, groups, *kernel.shape[1:])
    index = torch.arange(groups)
    blocks[index, :, index] = kernel.unflatten(0, (groups, -1))
    return blocks.flatten(0, 1).flatten(1, 2)


def _copy_outside(
    source: nn.Module, target: nn.Module, given: Mapping[str, Tensor], slots: Iterable[str]
) -> dict[str, str]:
    """Copy, in place, what is not in a slot, and return a note for every tensor that is not."""
    inside = tuple(f"{name}." for name in slots)
    values, notes = source.state_dict(), {}
    for key, value in target.state_dict().items():
        if not key.startswith(inside):
            is_given = key in given and given[key].shape == value.shape
            notes[key] = COPIED if is_given else FRESH_VALUE
            if is_given:
                value.copy_(values[key])
    return notes


class Slot:
    """Start one slot: this base knows nothing of the operator and leaves it at its initial values.

    Args:
        conv: the trained 3×3 convolution with its norm.
        operator: what takes its place; :meth:`fill` changes it in place.
    """

    how = "initial values: the operator has no unary term"

    def __init__(self, conv: Any, operator: Any) -> None:
        self.conv, self.operator = conv, operator

    @property
    def kernel(self) -> Tensor:
        """Return the dense kernel (C', C, 3, 3) of a convolution at stride 1, which a pool follows at stride 2."""
        kernel = self.conv.weight.detach()
        return box_fitted(kernel) if self.operator.stride == 2 else kernel

    def see_inputs(self, x: Tensor, y: Tensor) -> None:
        """Learn from input and output of the convolution, without its norm, in the first pass over the images."""

    def see_outputs(self, x: Tensor, y: Tensor) -> None:
        """Learn from the same in the second pass."""

    def see_held_out(self, x: Tensor, y: Tensor) -> None:
        """Measure on images that nothing was fitted to."""

    @torch.no_grad()
    def fill(self) -> None:
        """Write the operator's weights, in place."""
        if self.operator.has_trailing_norm:
            copy_norm(self.conv.norm, self.operator.norm)

    def report(self, name: str) -> SlotStart:
        """Return the report on the slot of this name."""
        return SlotStart(name, self.how)


@dataclass
class Candidate:
    """Hold one factorisation, and what its features are on the images to measure on, before and behind the pool."""

    factors: Factors
    project: Tensor
    unpooled: ProjectionFit = field(default_factory=ProjectionFit)
    pooled: ProjectionFit = field(default_factory=ProjectionFit)

    def shrinkage(self) -> Tensor:
        """Return by what factor the pool divides the deviation of each channel of the output, (C',)."""
        before, after = (fit.variance(self.project).sqrt() for fit in (self.unpooled, self.pooled))
        return (before / after).clamp(1, 4)


class UnarySlot(Slot):
    """Start the unary term from the convolution, while the binary term beside it is silent."""

    how = "unary term from the convolution, binary term silent"

    def __init__(self, conv: Any, operator: Any) -> None:
        super().__init__(conv, operator)
        self.term: Any = operator.unary
        self.groups = self.term.conv.groups
        self.scale = stored_affine(conv.norm)[0].detach()
        self.moments, self.fit = PatchMoments(self.groups, operator.stride), ProjectionFit()
        plain = factorise(self.kernel, self.groups)
        self.candidates = [Candidate(plain, plain.project)]  # then the one that is fitted to images

    def see_inputs(self, x: Tensor, y: Tensor) -> None:
        """Add up the covariance of the patches, at stride 2 of the averages that the pool makes."""
        self.moments.add(box_filtered(x) if self.operator.stride == 2 else x)

    def see_outputs(self, x: Tensor, y: Tensor) -> None:
        """Add up what the grouped convolution makes of the input, and what the dense one does."""
        if len(self.candidates) == 1:
            fitted = factorise(self.kernel, self.groups, self.moments.covariance(), self.scale)
            self.candidates.append(Candidate(fitted, fitted.project))
        self.fit.add(self.operator.pool(self._features(self.candidates[1].factors, x)), y)

    def see_held_out(self, x: Tensor, y: Tensor) -> None:
        """Add up the same of the images to measure on, for both factorisations."""
        for candidate in self.candidates:
            features = self._features(candidate.factors, x)
            candidate.unpooled.add(features, features)
            candidate.pooled.add(self.operator.pool(features), y)

    def _features(self, factors: Factors, x: Tensor) -> Tensor:
        self._set_convolution(factors)
        return self.term.conv(x)

    def _set_convolution(self, factors: Factors) -> None:
        self.term.conv.weight.data.copy_(factors.grouped)
        if isinstance(self.conv, DeformableConv2d) and isinstance(self.term.conv, DeformableConv2d):
            self.term.conv.offset.load_state_dict(self.conv.offset.state_dict())

    def _errors(self) -> list[float]:
        """Return the error of each candidate on the images to measure on."""
        return [candidate.pooled.error(candidate.project, self.scale) for candidate in self.candidates]

    def _chosen(self) -> Candidate:
        """Return the best candidate: with too few images to fit to, that of the weights alone."""
        errors = self._errors() if self.fit.count else [0.0]
        return self.candidates[errors.index(min(errors))]

    @torch.no_grad()
    def fill(self) -> None:
        """Write the unary term, the norms, and zero for the binary term's output."""
        super().fill()
        if self.fit.count:
            self.candidates[1].project = self.fit.solve(self.candidates[1].project)
        chosen = self._chosen()
        self._set_convolution(chosen.factors)
        self.term.project.weight.copy_(chosen.project)
        if self.term.project.bias is not None:  # of an operator from outside
            nn.init.zeros_(self.term.project.bias)
        if self.operator.has_trailing_norm:
            set_identity(self.term.norm)
        else:
            copy_norm(self.conv.norm, self.term.norm)
            if self.fit.count and self.operator.stride == 2:  # its deviation will be that before the pool
                self.term.norm.weight.mul_(chosen.shrinkage().to(self.term.norm.weight))
        binary = getattr(self.operator, "binary", None)
        if isinstance(binary, BinaryTerm):
            silence(binary.out_norm)

    def report(self, name: str) -> SlotStart:
        """Return the report, with the errors on the images to measure on."""
        errors = self._errors() if self.fit.count else []
        return SlotStart(
            name, self.how, self._chosen().factors.energy, (errors[0], min(errors)) if errors else None
        )


class AttentionSlot(Slot):
    """Start an operator without convolution: its values are what the convolution computes of constant maps."""

    how = "values from the sum of the kernel's taps; queries, keys and positions at their initial values"

    @torch.no_grad()
    def fill(self) -> None:
        """Write the rows of the values, head by head."""
        super().fill()
        binary = self.operator.binary
        rows = binary.qkv.weight.data.unflatten(0, (binary.num_heads, -1))
        rows[:, -binary.value_dim :] = self._tap_sums().unflatten(0, (binary.num_heads, -1))

    def _tap_sums(self) -> Tensor:
        """Return the sum over the kernel's taps, as a 1×1 kernel (C', C, 1, 1)."""
        return self.conv.weight.detach().sum((2, 3), keepdim=True)


class AugmentedSlot(AttentionSlot):
    """Start attention augmentation: its convolution keeps the first output channels, attention has the last ones."""

    how = "convolution's first channels copied; the last ones are attended sums of the kernel's taps"

    @torch.no_grad()
    def fill(self) -> None:
        """Write the convolution, the rows of the values, and an identity behind them."""
        Slot.fill(self)
        operator = self.operator
        operator.conv.weight.copy_(self.kernel[: len(operator.conv.weight)])
        if isinstance(self.conv, DeformableConv2d) and isinstance(operator.conv, DeformableConv2d):
            operator.conv.offset.load_state_dict(self.conv.offset.state_dict())
        operator.qkv.weight.data[-operator.value_channels :] = self._tap_sums()[-operator.value_channels :]
        operator.project.weight.data[:, :, 0, 0] = torch.eye(operator.value_channels)


def slot_class(operator: SlotOperator) -> type[Slot]:
    """Return what starts this operator."""
    if isinstance(getattr(operator, "unary", None), UnaryTerm):
        return UnarySlot
    if isinstance(operator, AttentionAugmentation):
        return AugmentedSlot
    return AttentionSlot if isinstance(getattr(operator, "binary", None), BinaryTerm) else Slot


def copy_norm(source: nn.Module, target: nn.Module) -> None:
    """Copy weight, bias and statistics of a batch norm, in place; the types may differ."""
    for name in BATCH_NORM_TENSORS:
        getattr(target, name).data.copy_(getattr(source, name))


def silence(norm: Any) -> None:
    """Make a norm give zero, in place; weight and bias still have gradients.

    Raises:
        CheckpointError: they have none, so that it would give zero for ever.
    """
    if not norm.weight.requires_grad:
        raise CheckpointError(
            f"a start from a convolution leaves the binary terms silent, and frozen ones could never learn. {UNFROZEN}"
        )
    norm.weight.data.zero_()
    norm.bias.data.zero_()


def set_identity(norm: Any) -> None:
    """Make a batch norm with stored statistics pass its input on, in place."""
    for name, value in zip(BATCH_NORM_TENSORS, (1.0, 0.0, 0.0, 1.0 - norm.eps), strict=True):
        getattr(norm, name).data.fill_(value)
