"""Looking at the operators of the slot inside any model while it runs.

Shapes: N images, C channels, an H×W map, G heads, n = H·W positions.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ...errors import LesaError
from ...layers import InspectableAttention, SlotOperator
from ...layers.attention.reference import OwnPosition

PARTS = ("unary", "binary", "gate")


@dataclass(frozen=True)
class Layer:
    """An operator of the slot and where it stands.

    Attributes:
        name: of the module in the model, such as ``bottom_up.res4.1.conv2``.
        operator: the module.
        attention: the operator itself, or the module inside it that attends.
    """

    name: str
    operator: SlotOperator
    attention: InspectableAttention

    @property
    def stage(self) -> str:
        """``res4``, ``res5``, …; empty outside a ResNet's stages."""
        found = re.search(r"(?:^|\.)(res\d+)(?:\.|$)", self.name)
        return found[1] if found else ""

    @property
    def label(self) -> str:
        """Stage and block, such as ``res4.1``; the name outside a ResNet's stages."""
        found = re.search(r"(?:^|\.)(res\d+\.\d+)(?:\.|$)", self.name)
        return found[1] if found else self.name


@dataclass
class Observation:
    """One forward pass of one layer: its input, and what its parts gave, all (N, C, H, W).

    ``parts`` holds "unary", "binary" and "gate" as far as the operator has them.
    """

    layer: Layer
    input: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Return the size (H, W) of the input."""
        return self.input.shape[2], self.input.shape[3]


def find_layers(model: nn.Module) -> list[Layer]:
    """Return the operators of the slot in ``model`` whose attention can be looked at, in the order of its modules.

    Operators without an ``InspectableAttention`` are left out.

    Raises:
        LesaError: there are none.
    """
    operators = [(name, m) for name, m in model.named_modules() if isinstance(m, SlotOperator)]
    attentions = ((name, m, next(filter(_attends, m.modules()), None)) for name, m in operators)
    found = [Layer(name, m, attention) for name, m, attention in attentions if attention is not None]
    if not found:
        got = ", ".join(sorted({type(m).__name__ for _, m in operators})) or "ordinary convolutions"
        raise LesaError(
            f"expected a model with operators of the slot (LESA, self-attention, …), got a "
            f"{type(model).__name__} with {got} alone: it has no attention to look at; "
            "choose the config or weights of another operator, or make yours an InspectableAttention"
        )
    return found


def _attends(module: nn.Module) -> TypeGuard[InspectableAttention]:
    return isinstance(module, InspectableAttention)


@contextmanager
def observing(model: nn.Module, see: Callable[[Observation], None]) -> Iterator[list[Layer]]:
    """Within, ``model`` is in eval mode, records no gradients, and ``see`` is called for every layer it runs.

    Modes come back and hooks go when the context ends, also by an error.  Yields the layers.

    Raises:
        LesaError: the model has no operator of the slot.
    """
    layers = find_layers(model)
    modes = [(module, module.training) for module in model.modules()]
    with ExitStack() as stack, torch.no_grad():
        for layer in layers:
            _observe(layer, see, stack)
        model.eval()
        try:
            yield layers
        finally:
            for module, training in modes:
                module.training = training


def _observe(layer: Layer, see: Callable[[Observation], None], stack: ExitStack) -> None:
    parts: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        parts[name] = output

    def tell(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        observation = Observation(layer, args[0], dict(parts))
        parts.clear()
        see(observation)

    for name in PARTS:
        part = getattr(layer.operator, name, None)
        if part is not None:
            stack.enter_context(part.register_forward_hook(partial(keep, name)))
    stack.enter_context(layer.operator.register_forward_hook(tell))


@contextmanager
def without_own_position(model: nn.Module, own_position: OwnPosition = "dropped") -> Iterator[None]:
    """Within, no position of any attention in ``model`` attends to itself; for evaluation, in eval mode.

    On a map of one position nothing remains: its weighted sum is zero.

    Args:
        model: a module with operators of the slot.
        own_position: "dropped" removes the term p_ii v_i of the sum over all positions, the ablation of the
            paper's Table 1; "masked" computes the softmax over j ≠ i, whose weights sum to one again.

    Raises:
        LesaError: the model has no operator of the slot.
        RuntimeError: from the model's forward pass, in training mode.
    """
    attentions = [layer.attention for layer in find_layers(model)]
    before = [attention.own_position for attention in attentions]
    try:
        for attention in attentions:
            attention.own_position = own_position
        yield
    finally:
        for attention, value in zip(attentions, before, strict=True):
            attention.own_position = value
