"""Whether a step fits in a given memory, and which switches would make it fit.

A step is measured at small sizes; its memory at the size that is asked for follows from a polynomial in the
number of pixels, one for each moment of the step.  The largest of them is the peak.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import nn

from ...config.lazy import lesa_backbones, nodes
from ...errors import ConfigError, LesaError
from ...modeling.build import instantiate_model
from .step import Size, StepCost, generate_inputs, measure_step, prepare_config

Point = tuple[int, Size]  # a number of images and their size
Term = Callable[[int, float], float]
GIB = 2**30
MEASURED_PIXELS = 640**2  # of a step that is measured; larger ones are extrapolated
SIDES = (1, 2 / 3, 1 / 3)  # of the largest image that is measured; the third tells what grows with P²
STAGES = ("res5", "res4", "res3", "res2")
SMALLER = (0.75, 0.5)  # of the image's sides
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class MeasuredModel:
    """A config's model, built once, and the steps of it that have been measured."""

    def __init__(self, cfg: DictConfig, training: bool) -> None:
        """Take a config with ``model``, ``optimizer``, ``dataloader`` and ``train``; ``training`` says which step."""
        self.cfg, self.training = cfg, training
        self._steps: dict[tuple[int, Size], StepCost] = {}

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

    @property
    def weights(self) -> int:
        """Return the bytes of all parameters and buffers."""
        return sum(t.nbytes for t in (*self.model.parameters(), *self.model.buffers()))

    @property
    def gradients(self) -> int:
        """Return the bytes of all gradients."""
        return sum(p.nbytes for p in self.model.parameters() if p.requires_grad)

    @cached_property
    def optimizer(self) -> int:
        """Return the bytes of the state that the config's optimizer keeps."""
        cfg = copy.deepcopy(self.cfg.optimizer)
        cfg.params.model = self.model
        optimizer = instantiate(cfg)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step()
        states = [value for state in optimizer.state.values() for value in state.values()]
        return sum(value.nbytes for value in states if torch.is_tensor(value))

    def padded(self, size: Size) -> Size:
        """Return the size (H, W) that the model pads images of ``size`` to."""
        square = max([node.get("square_pad") or 0 for _, node in nodes(self.cfg.model)], default=0)
        step = max(getattr(self.model.backbone, "size_divisibility", 1), 1)
        if self.cfg.train.task == "classification":
            return size
        height, width = (max(side, square) for side in size)
        return -(-height // step) * step, -(-width // step) * step

    def step(self, images: int, size: Size, extrapolated: bool) -> StepCost:
        """Measure a step of ``images`` images of ``size``.

        Args:
            extrapolated: the figures stand for larger images, on which attention is computed block by block.

        Raises:
            ConfigError: the model cannot be run on so little.
        """
        if (images, size) not in self._steps:
            if extrapolated and not torch.cuda.is_available():
                for module in self.model.modules():
                    if getattr(module, "backend", None) == "auto":
                        module.backend = "blockwise"
            self._steps[images, size] = self._measure(images, size)
        return self._steps[images, size]

    def _measure(self, images: int, size: Size) -> StepCost:
        amp = self.cfg.train.amp
        dtype = amp.dtype or ("float16" if torch.cuda.is_available() else "float32")
        precision = PRECISIONS[dtype] if amp.enabled and self.training else torch.float32
        try:
            return measure_step(self.model, generate_inputs(self.cfg, images, size), precision)
        except (ValueError, RuntimeError, ArithmeticError, LookupError) as error:
            if isinstance(error, LesaError):
                raise
            raise ConfigError(
                f"the model cannot be run on {images} image(s) of {size[0]}×{size[1]} at a time: {error}; "
                "take a larger --image-size or --batch"
            ) from error


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

    @property
    def micro_batch(self) -> int:
        """Return the images of one forward pass."""
        return -(-self.images // self.accumulate)

    def changed(self, changes: Mapping[str, Any]) -> "Setting":
        """Return the setting with other values in the config."""
        cfg = copy.deepcopy(self.measured.cfg)
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value)
        return replace(self, measured=MeasuredModel(cfg, self.measured.training))

    def flops(self) -> dict[str, int]:
        """Return the FLOPs of a forward pass by module, measured or extrapolated.

        Raises:
            ConfigError: the model cannot be built, or not be run on so little.
        """
        return self._measured_or_extrapolated("flops", has_pairs=True)

    def peak(self) -> int:
        """Return the most bytes of a forward pass and, in training, a backward pass; errors as of :meth:`flops`."""
        has_pairs = self._is_extrapolated() and self._makes_pairs()
        return max(self._measured_or_extrapolated("peaks", has_pairs).values())

    def _target(self) -> Point:
        return self.micro_batch, self.measured.padded(self.size)

    def _is_extrapolated(self) -> bool:
        return self.micro_batch * math.prod(self._target()[1]) > MEASURED_PIXELS

    def _sizes(self) -> list[Size]:
        """Return the sizes of single images that are measured for larger ones."""
        size = self._target()[1]
        scale = min(1.0, math.sqrt(MEASURED_PIXELS / math.prod(size)))
        windows = [node.window_size * node.patch_size for _, node in nodes(self.measured.cfg.model) if node.get("window_size")]
        grid = max(windows, default=64)  # windows at the border are padded
        found = [[max(grid, round(side * scale * share / grid) * grid) for side in size] for share in SIDES]
        return [(height, width) for height, width in found]

    def _makes_pairs(self) -> bool:
        """Tell whether an operator makes maps that grow faster than the number of pixels."""
        large, small = self._sizes()[:2]
        most, least = (self.measured.step(1, size, True) for size in (large, small))
        growth = (math.prod(large) / math.prod(small)) **1.5
        notable = {name for name, made in most.made.items() if made > most.peak / 20}
        return any(most.made[name] > growth * least.made.get(name, 0) for name in notable)

    def _measured_or_extrapolated(self, quantity: str, has_pairs: bool) -> dict[str, int]:
        """Return a quantity of a step that is small enough, else what smaller steps say.

        With N images of P pixels it is c₀ + c₁·NP and, for regions, c₂·N; for maps of all pairs of positions also
        c₃·NP².
        """
        images, size = target = self._target()
        if not self._is_extrapolated():
            return getattr(self.measured.step(images, size, False), quantity)
        points: list[Point] = [(4, size), (2, size)]
        terms: list[Term] = [lambda n, p: 1, lambda n, p: n * p]
        if 4 * math.prod(size) > MEASURED_PIXELS:
            large, small, middle = self._sizes()
            points = [(1, large), (1, small)]
            if images > 1:
                points, terms = [*points, (2, small)], [*terms, lambda n, p: n]
            if has_pairs:
                points, terms = [*points, (1, middle)], [*terms, lambda n, p: n * p**2]
        steps = [getattr(self.measured.step(*point, True), quantity) for point in points]
        return extrapolate(points, steps, target, terms)


def extrapolate(
    points: Sequence[Point], values: Sequence[Mapping[str, int]], target: Point, terms: Sequence[Term]
) -> dict[str, int]:
    """Return each of ``values``, measured at as many ``points`` as there are ``terms``, at the ``target``."""

    def row(point: Point) -> list[float]:
        return [term(point[0], math.prod(point[1]) / MEASURED_PIXELS) for term in terms]

    names = [name for name in values[0] if all(name in others for others in values)]
    table = np.array([[found[name] for name in names] for found in values])
    coefficients = np.linalg.solve(np.array([row(point) for point in points]), table)
    return dict(zip(names, np.rint(row(target) @ coefficients).astype(int).tolist(), strict=True))


@dataclass(frozen=True)
class Memory:
    """Hold bytes by what they are for; the sum is the peak."""

    weights: int
    average: int = 0
    optimizer: int = 0
    kept_gradients: int = 0
    step: int = 0

    @property
    def total(self) -> int:
        """Return the peak."""
        return self.weights + self.average + self.optimizer + self.kept_gradients + self.step

    def table(self) -> str:
        """Return a Markdown table, in GiB."""
        rows = [
            ("weights and buffers", self.weights),
            ("their average (train.ema)", self.average),
            ("optimizer", self.optimizer),
            ("gradients kept over micro-batches", self.kept_gradients),
            ("step: activations, gradients, what is freed on the way", self.step),
            ("**peak**", self.total),
        ]
        shown = [[name, f"{size / GIB:.2f}"] for name, size in rows if size]
        return tabulate(shown, ["memory", "GiB"], "github", colalign=("left", "right"), disable_numparse=True)


def estimate(setting: Setting) -> Memory:
    """Return the memory of a step, with everything that is there before it.

    Raises:
        ConfigError: see :meth:`Setting.step`.
    """
    measured, step = setting.measured, setting.peak()
    if not measured.training:
        return Memory(measured.weights, step=step)
    return Memory(
        measured.weights,
        average=measured.weights if measured.cfg.train.ema.enabled else 0,
        optimizer=measured.optimizer,
        kept_gradients=measured.gradients if setting.accumulate > 1 else 0,
        step=step,
    )


@dataclass(frozen=True)
class Switch:
    """Hold one thing that saves memory: its name, what to type, and the setting with it."""

    name: str
    override: str
    change: Callable[[Setting], Setting]


def switches(setting: Setting) -> Iterator[Switch]:
    """Yield what saves memory: what changes no result first, smaller images last."""
    cfg, training = setting.measured.cfg, setting.measured.training
    backbones = lesa_backbones(cfg)
    for key, node in backbones.items():
        if node.get("backend", "auto") in ("reference", "sdpa"):
            yield _config_switch("attention without maps of all pairs", {f"{key}.backend": "auto"})
    if training:
        yield from _micro_batches(setting)
        for key, node in backbones.items():
            yield from _checkpointed_stages(key, node)
        if not cfg.train.amp.enabled:
            amp = {"train.amp.enabled": True, "train.amp.dtype": "bfloat16"}
            yield _config_switch("mixed precision", amp)
    elif setting.images > 1:
        override = "dataloader.test.batch_size=1"
        yield Switch("one image at a time", override, lambda found: replace(found, images=1))
    yield from _smaller_images(setting)


def _config_switch(name: str, changes: Mapping[str, Any]) -> Switch:
    typed = " ".join(f"{key}={value}".replace("'", "").replace(" ", "") for key, value in changes.items())
    return Switch(name, typed, lambda setting: setting.changed(changes))


def _micro_batches(setting: Setting) -> Iterator[Switch]:
    size = setting.micro_batch
    while size > 1:
        size = -(-size // 2)
        number = -(-setting.images // size)
        name, override = f"{size} image(s) at a time, gradients added up", f"train.accumulate={number}"
        yield Switch(name, override, lambda found, number=number: replace(found, accumulate=number))


def _checkpointed_stages(key: str, node: DictConfig) -> Iterator[Switch]:
    stages = list(node.get("checkpoint_stages") or [])
    for stage in STAGES:
        if stage not in stages and int(stage[-1]) > node.get("freeze_at", 0):
            stages = sorted([*stages, stage])
            name = f"{', '.join(stages)} computed again in the backward pass"
            yield _config_switch(name, {f"{key}.checkpoint_stages": stages})


def _smaller_images(setting: Setting) -> Iterator[Switch]:
    for scale in SMALLER:
        height, width = (min(side, max(32, round(side * scale / 32) * 32)) for side in setting.size)
        name, override = f"images of {height}×{width}", size_override(setting, (height, width))
        yield Switch(name, override, lambda found, size=(height, width): replace(found, size=size))


SIZED: dict[str, tuple[Callable[[Any], Size], str]] = {
    "shape": (lambda value: (value[0], value[1]), "{key}.shape=[{height},{width}]"),
    "size": (lambda value: (value[0], value[-1]), "{key}.size=[{height},{width}]"),
    "crop_size": (lambda value: (value[0], value[1]), "{key}.crop_size=[{height},{width}]"),
    "ranges": (lambda value: (max(map(max, value)),) * 2, "{key}.ranges=[[{half},{longest}]]"),
    "max_size": (lambda value: (value, value), "{key}.short_edge_length=[{height}] {key}.max_size={longest}"),
}
"""Argument of an augmentation -> the largest size that it gives, and what to type for another."""


def _sized_augmentation(cfg: DictConfig, training: bool) -> tuple[str, str] | None:
    """Return the key of the augmentation that decides the size of the images, and its argument in ``SIZED``."""
    for loader in ("train",) if training else ("test", "train"):
        for key in ("mapper.augmentations", "mapper.transform.transforms"):
            found = OmegaConf.select(cfg, f"dataloader.{loader}.{key}") or []
            own = [index for index in range(len(found)) if not OmegaConf.is_interpolation(found, index)]
            for index in reversed(own):
                for name in SIZED:
                    if found[index].get(name) is not None:
                        return f"dataloader.{loader}.{key}.{index}", name
    return None


def largest_size(cfg: DictConfig, training: bool) -> Size:
    """Return the size (H, W) of the largest images that the config's model sees.

    Raises:
        ConfigError: neither the augmentations nor the backbone tell.
    """
    found = _sized_augmentation(cfg, training)
    if found:
        key, name = found
        return SIZED[name][0](OmegaConf.select(cfg, f"{key}.{name}"))
    for node in lesa_backbones(cfg).values():
        if (size := node.get("image_size")) is not None:
            return (size, size) if isinstance(size, int) else (size[0], size[1])
    raise ConfigError("the config does not say how large its images are; give --image-size H W")


def size_override(setting: Setting, size: Size) -> str:
    """Return what to type for images of ``size``; nothing where no augmentation decides it."""
    found = _sized_augmentation(setting.measured.cfg, setting.measured.training)
    if not found:
        return ""
    values = {"height": size[0], "width": size[1], "half": min(size) // 2, "longest": max(size)}
    return SIZED[found[1]][1].format(key=found[0], **values)


@dataclass(frozen=True)
class Plan:
    """Hold what :func:`fit` tried: the setting as it is, then switch after switch, until the budget was met.

    Attributes:
        budget: bytes.
        rows: name, what to type, and bytes.
    """

    budget: int
    rows: Sequence[tuple[str, str, int]]

    @property
    def fits(self) -> bool:
        """Tell whether the last of ``rows`` is within the budget."""
        return self.rows[-1][2] <= self.budget

    def text(self) -> str:
        """Return a Markdown table of every estimate and what to type, and the verdict."""
        shown = [
            [name, f"{size / GIB:.2f}", "yes" if size <= self.budget else "no", override and f"`{override}`"]
            for name, override, size in self.rows
        ]
        headers = ["each on top of those before", "GiB", f"in {self.budget / GIB:g} GiB", "override"]
        align = ("left", "right", "left", "left")
        return (
            f"{tabulate(shown, headers, 'github', colalign=align, disable_numparse=True)}\n\n{self.verdict()}"
        )

    def verdict(self) -> str:
        """Return one sentence: whether it fits, and with what."""
        if not self.fits:
            return "None of the switches is enough: take a smaller model, or more memory."
        overrides = {key.partition("=")[0]: key for _, typed, _ in self.rows for key in typed.split()}
        if not overrides:
            return "It fits as it is."
        return f"It fits with: `{' '.join(overrides.values())}`"


def fit(setting: Setting, budget: int, estimator: Callable[[Setting], Memory] = estimate) -> Plan:
    """Try switches until the estimate is within ``budget`` bytes; those that cannot be run are left out."""
    rows = [("as it is", "", estimator(setting).total)]
    for switch in switches(setting):
        if rows[-1][2] <= budget:
            break
        with contextlib.suppress(ConfigError):
            changed = switch.change(setting)
            rows.append((switch.name, switch.override, estimator(changed).total))
            setting = changed
    return Plan(budget, rows)
