"""The memory of a step of any model at any size, from measured steps at small sizes."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from ...config.lazy import nodes
from ...errors import ConfigError, LesaError
from ...modeling.build import instantiate_model
from .step import Size, StepCost, generate_inputs, measure_step, prepare_config

Point = tuple[int, Size]
"""A number of images, and their size (H, W)."""
Term = Callable[[int, float], float]
"""(images N, pixels P of one) -> what a quantity grows with."""
MEASURED_PIXELS = 640**2  # of a step that is measured; larger ones are extrapolated
SIDES = (1, 2 / 3, 1 / 3)  # of the largest image that is measured; the third tells what grows with P²


class MeasuredModel:
    """A config's model, built once, and the steps of it that have been measured.

    Args:
        cfg: with ``model``, ``optimizer``, ``dataloader`` and ``train``.
        training: measure steps of training, else of inference.
    """

    def __init__(self, cfg: DictConfig, training: bool) -> None:
        self.cfg, self.training = cfg, training
        self._steps: dict[Point, StepCost] = {}

    @cached_property
    def model(self) -> nn.Module:
        """Build the model on the device to be measured.

        Raises:
            ConfigError: the arguments do not make a model.
        """
        cfg = copy.deepcopy(self.cfg)
        prepare_config(cfg)
        device = cfg.train.device if torch.cuda.is_available() else "cpu"
        return instantiate_model(cfg.model).train(self.training).to(device)

    def kept(self, accumulate: int) -> dict[str, int]:
        """Return the bytes of what is there before a step, by what it is."""
        parameters = list(self.model.parameters())
        kept = {"weights and buffers": _bytes([*parameters, *self.model.buffers()])}
        if self.training:
            kept["their average (train.ema)"] = _bytes(parameters) * self.cfg.train.ema.enabled
            kept["optimizer"] = self._optimizer
            kept["gradients kept over micro-batches"] = self._gradients * (accumulate > 1)
        return {name: size for name, size in kept.items() if size}

    @property
    def _gradients(self) -> int:
        return _bytes([parameter for parameter in self.model.parameters() if parameter.requires_grad])

    @cached_property
    def _optimizer(self) -> int:
        """Return the bytes of the state that the config's optimizer keeps after a step."""
        cfg = copy.deepcopy(self.cfg.optimizer)
        cfg.params.model = self.model
        optimizer = instantiate(cfg)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step()
        values = [value for state in optimizer.state.values() for value in state.values()]
        return _bytes([value for value in values if torch.is_tensor(value)])

    def padded(self, size: Size) -> Size:
        """Return the size (H, W) that the model pads images of ``size`` to."""
        if self.cfg.train.task == "classification":
            return size
        square = max(node.get("square_pad") or 0 for _, node in nodes(self.cfg.model))
        step = max(getattr(self.model.backbone, "size_divisibility", 1), 1)
        height, width = (-(-max(side, square) // step) * step for side in size)
        return height, width

    def step(self, images: int, size: Size, extrapolated: bool) -> StepCost:
        """Return what a step of ``images`` images of ``size`` takes; it is measured once.

        Args:
            images: how many.
            size: their size (H, W) in pixels.
            extrapolated: the step stands for larger ones, where attention is computed block by block.

        Raises:
            ConfigError: the model cannot be built, or not be run on so little.
        """
        if (images, size) not in self._steps:
            for module in self.model.modules():
                if (
                    extrapolated
                    and getattr(module, "backend", "") == "auto"
                    and not torch.cuda.is_available()
                ):
                    vars(module)["backend"] = "blockwise"
            self._steps[images, size] = self._measure(images, size)
        return self._steps[images, size]

    def _measure(self, images: int, size: Size) -> StepCost:
        amp = self.cfg.train.amp
        default = "float16" if torch.cuda.is_available() else "float32"
        precision = amp.dtype or default if amp.enabled and self.training else "float32"
        try:
            inputs = generate_inputs(self.cfg, images, size)
            return measure_step(self.model, inputs, getattr(torch, precision))
        except (ValueError, RuntimeError, ArithmeticError, LookupError) as error:
            if isinstance(error, LesaError):
                raise
            raise ConfigError(
                f"the model cannot be run on {images} image(s) of {size[0]}×{size[1]} at a time: {error}; "
                "take a larger --image-size or --batch"
            ) from error


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class Setting:
    """A model and what it is run on.

    Attributes:
        measured: the model.
        size: (H, W) of the images, before the model pads them.
        images: of an optimizer step on one device.
        accumulate: micro-batches that these are split into.
    """

    measured: MeasuredModel
    size: Size
    images: int = 1
    accumulate: int = 1

    def memory(self) -> dict[str, int]:
        """Return the bytes at the peak of a step by what they are for; errors as of :meth:`flops`."""
        kept = self.measured.kept(self.accumulate)
        return {**kept, "step: activations, gradients, what is freed on the way": self.step_memory()}

    def step_memory(self) -> int:
        """Return the most bytes that a step adds to what was there before; errors as of :meth:`flops`."""
        return max(self._measured_or_extrapolated("peaks").values())

    def flops(self) -> dict[str, int]:
        """Return the FLOPs of a forward pass by module.

        Raises:
            ConfigError: the model cannot be built, or not be run on so little.
        """
        return self._measured_or_extrapolated("flops")

    @property
    def micro_batch(self) -> int:
        """Return the images of one forward pass."""
        return -(-self.images // self.accumulate)

    def _target(self) -> Point:
        return self.micro_batch, self.measured.padded(self.size)

    def _sizes(self) -> list[Size]:
        """Return the sizes of single images that are measured for larger ones."""
        _, size = self._target()
        scale = min(1.0, math.sqrt(MEASURED_PIXELS / math.prod(size)))
        transformers = [node for _, node in nodes(self.measured.cfg.model) if node.get("window_size")]
        grid = max([node.window_size * node.patch_size for node in transformers], default=64)
        height, width = size
        sides = [
            [max(grid, round(side * scale * s / grid) * grid) for side in (height, width)] for s in SIDES
        ]
        return [(height, width) for height, width in sides]

    def _makes_pairs(self) -> bool:
        """Tell whether an operator makes maps that grow nearly with the square of the number of pixels."""
        large, small, _ = self._sizes()
        most, least = (self.measured.step(1, size, True) for size in (large, small))
        growth = (math.prod(large) / math.prod(small)) ** 1.5
        notable = [name for name, made in most.made.items() if made > max(most.peaks.values()) / 20]
        return any(most.made[name] > growth * least.made.get(name, 0) for name in notable)

    def _measured_or_extrapolated(self, quantity: str) -> dict[str, int]:
        """Return a quantity of a step that is small enough, else what smaller steps say.

        With N images of P pixels it is c₀ + c₁·NP and, for regions, c₂·N; FLOPs and maps of all pairs of positions
        need c₃·NP² as well.  There are as many measured points as terms.
        """
        images, size = target = self._target()
        if images * math.prod(size) <= MEASURED_PIXELS:
            return getattr(self.measured.step(images, size, False), quantity)
        points: list[Point] = [(4, size), (2, size)]
        terms: list[Term] = [lambda n, p: 1, lambda n, p: n * p]
        if 4 * math.prod(size) > MEASURED_PIXELS:
            large, middle, small = self._sizes()
            points = [(1, large), (1, middle)]
            if images > 1:
                points, terms = [*points, (2, middle)], [*terms, lambda n, p: n]
            if quantity == "flops" or self._makes_pairs():
                points, terms = [*points, (1, small)], [*terms, lambda n, p: n * p**2]
        steps = [getattr(self.measured.step(*point, True), quantity) for point in points]
        return extrapolate(points, steps, target, terms)


def extrapolate(
    points: Sequence[Point], values: Sequence[Mapping[str, int]], target: Point, terms: Sequence[Term]
) -> dict[str, int]:
    """Return each of ``values``, measured at as many ``points`` as there are ``terms``, at the ``target``."""

    def row(images: int, size: Size) -> list[float]:
        return [term(images, math.prod(size) / MEASURED_PIXELS) for term in terms]

    names = [name for name in values[0] if all(name in others for others in values)]
    table = np.array([[found[name] for name in names] for found in values])
    coefficients = np.linalg.solve(np.array([row(*point) for point in points]), table)
    return dict(zip(names, np.rint(row(*target) @ coefficients).astype(int).tolist(), strict=True))
