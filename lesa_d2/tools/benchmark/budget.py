"""Whether a config's model fits in a given memory, and which switches would make it fit."""

import contextlib
import copy
import io
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import nn

from ...errors import ConfigError
from .memory import step_memory, without_numbers
from .passes import Regions, check_is_known, padded_size, spread_evenly, usual_regions

GIB = 2**30
STAGES = ("res5", "res4", "res3", "res2")
SMALLER = (0.75, 0.5)  # of the image's sides
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """A model's config and what it is run on.

    Attributes:
        cfg: a LazyConfig with ``model``, ``optimizer`` and ``train``.
        training: a step of training, else of inference.
        size: (H, W) of the images, before the model pads them.
        images: of an optimizer step on one device.
        accumulate: micro-batches that these are split into.
    """

    cfg: DictConfig
    training: bool
    size: tuple[int, int]
    images: int
    accumulate: int = 1

    def changed(self, key: str, value: Any) -> "Setting":
        """With another value in the config."""
        cfg = copy.deepcopy(self.cfg)
        OmegaConf.update(cfg, key, value)
        return replace(self, cfg=cfg)

    def bottom_up(self) -> str:
        """The key of the ResNet's arguments."""
        return "model.backbone" if is_classifier(self.cfg) else "model.backbone.bottom_up"

    def build(self) -> nn.Module:
        """The model, in its mode, with poolers for :func:`.passes.parts`.

        Raises:
            ConfigError: it cannot be built, or is of another kind.
        """
        cfg, backend = copy.deepcopy(self.cfg), f"{self.bottom_up()}.backend"
        if OmegaConf.select(cfg, backend) == "fused":  # cannot be built without such a GPU, and costs as much
            OmegaConf.update(cfg, backend, "blockwise")
        try:
            model = instantiate(cfg.model)
        except (ValueError, TypeError, AssertionError, ArithmeticError, LookupError) as error:
            raise ConfigError(f"the config's model cannot be built: {error}") from error
        check_is_known(model)
        if hasattr(model, "roi_heads"):
            spread_evenly(model.roi_heads)
        return model.train(self.training)

    def regions(self) -> Regions | None:
        """As many as the model takes at most."""
        with without_numbers():
            return usual_regions(self.build(), self.training)

    def padded(self) -> tuple[int, int]:
        """(H, W) that the model pads the images to."""
        with without_numbers():
            return padded_size(self.build(), self.size)


def is_classifier(cfg: DictConfig) -> bool:
    """Whether the config's model has no RoI heads."""
    return OmegaConf.select(cfg, "model.roi_heads") is None


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they are for; the sum is the peak."""

    weights: int
    average: int = 0
    optimizer: int = 0
    kept_gradients: int = 0
    step: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.average + self.optimizer + self.kept_gradients + self.step

    def table(self) -> str:
        """Markdown, in GiB."""
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
    """The memory of a step, with everything that is there before it.

    Raises:
        ConfigError: see :meth:`Setting.build`; or the model cannot be run on so little.
    """
    with without_numbers(), _quietly():
        model = setting.build()
        weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
        trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        average = sum(t.nbytes for t in model.parameters())
        regions = usual_regions(model, setting.training)
    with _quietly():
        step = step_memory(
            setting.build,
            setting.size,
            -(-setting.images // setting.accumulate),
            regions,
            precision=_precision(setting.cfg) if setting.training else torch.float32,
            bit_masks=_has_bit_masks(setting.cfg),
        )
    if not setting.training:
        return Memory(weights, step=step)
    return Memory(
        weights,
        average=average if OmegaConf.select(setting.cfg, "train.ema.enabled") else 0,
        optimizer=round(optimizer_share(setting.cfg) * trained),
        kept_gradients=trained if setting.accumulate > 1 else 0,
        step=step,
    )


def _precision(cfg: DictConfig) -> torch.dtype:
    enabled = OmegaConf.select(cfg, "train.amp.enabled")
    return DTYPES[cfg.train.amp.dtype] if enabled else torch.float32


def _has_bit_masks(cfg: DictConfig) -> bool:
    return OmegaConf.select(cfg, "dataloader.train.mapper.instance_mask_format") != "polygon"


def optimizer_share(cfg: DictConfig) -> float:
    """What the config's optimizer keeps, as a multiple of the trained weights: 1 for momentum, 2 for Adam."""
    options = copy.deepcopy(cfg.optimizer)
    weight = nn.Parameter(torch.zeros(1000))
    weight.grad = torch.zeros(1000)
    options.params = None
    target = instantiate(DictConfig({**options, "_target_": "builtins.dict"}, flags={"allow_objects": True}))
    target.pop("params")
    optimizer = _located(cfg.optimizer._target_)([weight], **target)
    optimizer.step()
    return sum(t.numel() for t in optimizer.state[weight].values() if torch.is_tensor(t)) // 1000


def _located(target: Any) -> Callable[..., torch.optim.Optimizer]:
    from detectron2.utils.registry import locate

    return locate(target) if isinstance(target, str) else target


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@dataclass(frozen=True)
class Switch:
    """A setting with one thing changed from the one before.

    Attributes:
        name: what it is.
        override: what to type.
        setting: with it, and everything before.
    """

    name: str
    override: str
    setting: Setting


Offers = Generator[Switch, bool | None, Setting]
"""Yields switches, is sent whether the last one was refused, and returns the setting with the others."""


def switches(setting: Setting) -> Offers:
    """What saves memory, each on top of those before: what changes no result first, smaller images last."""
    key = setting.bottom_up()
    if OmegaConf.select(setting.cfg, f"{key}.backend") in ("reference", "sdpa"):
        changed, name = setting.changed(f"{key}.backend", "auto"), "attention without maps of all pairs"
        setting = yield from _offer(setting, name, f"{key}.backend=auto", changed)
    if setting.training:
        setting = yield from _micro_batches(setting)
        setting = yield from _checkpointed_stages(setting)
        setting = yield from _mixed_precision(setting)
    elif setting.images > 1:
        one = replace(setting, images=1)
        setting = yield from _offer(setting, "one image at a time", "dataloader.test.batch_size=1", one)
    return (yield from _smaller_images(setting))


def _offer(setting: Setting, name: str, override: str, changed: Setting) -> Offers:
    """Returns ``changed``; ``setting`` if that was refused."""
    refused = yield Switch(name, override, changed)
    return setting if refused else changed


def _micro_batches(setting: Setting) -> Offers:
    micro_batch = -(-setting.images // setting.accumulate)
    while micro_batch > 1:
        micro_batch = -(-micro_batch // 2)
        changed = replace(setting, accumulate=-(-setting.images // micro_batch))
        name = f"{micro_batch} image(s) at a time, gradients added up"
        setting = yield from _offer(setting, name, f"train.accumulate={changed.accumulate}", changed)
    return setting


def _checkpointed_stages(setting: Setting) -> Offers:
    key = f"{setting.bottom_up()}.checkpoint_stages"
    frozen = OmegaConf.select(setting.cfg, f"{setting.bottom_up()}.freeze_at", default=0)
    for stage in STAGES:
        stages = list(OmegaConf.select(setting.cfg, key, default=None) or [])
        if stage not in stages and int(stage[-1]) > frozen:
            stages = sorted([*stages, stage])
            name = f"{', '.join(stages)} computed again in the backward pass"
            changed = setting.changed(key, stages)
            setting = yield from _offer(setting, name, f"{key}=[{','.join(stages)}]", changed)
    return setting


def _mixed_precision(setting: Setting) -> Offers:
    if OmegaConf.select(setting.cfg, "train.amp.enabled"):
        return setting
    changed = setting.changed("train.amp", {"enabled": True, "dtype": "bfloat16"})
    override = "train.amp.enabled=True train.amp.dtype=bfloat16"
    return (yield from _offer(setting, "mixed precision", override, changed))


def _smaller_images(setting: Setting) -> Offers:
    full = setting.size
    for scale in SMALLER:
        height, width = size = tuple(min(side, max(32, round(side * scale / 32) * 32)) for side in full)
        if size != setting.size:
            name, override = f"images of {height}×{width}", size_override(setting, (height, width))
            setting = yield from _offer(setting, name, override, replace(setting, size=(height, width)))
    return setting


def size_override(setting: Setting, size: tuple[int, int]) -> str:
    """What to type for images of this size."""
    height, width = size
    augmentation = "dataloader.train.mapper.augmentations.0"
    if is_classifier(setting.cfg):
        return f"dataloader.train.mapper.transform.transforms.0.size=[{height},{width}]"
    if OmegaConf.select(setting.cfg, f"{augmentation}.ranges") is not None and setting.training:
        return f"{augmentation}.ranges=[[{min(size) // 2},{max(size)}]]"
    if not setting.training and OmegaConf.select(setting.cfg, f"{augmentation}.ranges") is not None:
        return f"dataloader.test.mapper.augmentations.0.shape=[{height},{width}]"
    return f"{augmentation}.shape=[{height},{width}]"


def largest_size(cfg: DictConfig, training: bool) -> tuple[int, int]:
    """(H, W) of the largest images that the config's model sees, as far as its augmentations tell."""
    loader = "train" if training else "test"
    for augmentation in (
        OmegaConf.select(cfg, f"dataloader.{loader}.mapper.augmentations", default=None) or []
    ):
        if (shape := augmentation.get("shape")) is not None:
            return shape[0], shape[1]
        if (ranges := augmentation.get("ranges")) is not None:
            side = max(high for _, high in ranges)
            return side, side
    key = "model.backbone.image_size" if is_classifier(cfg) else "model.backbone.bottom_up.image_size"
    size = OmegaConf.select(cfg, key)
    if size is None:
        raise ConfigError("the config does not say how large its images are; give --image-size H W")
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@dataclass(frozen=True)
class Plan:
    """What :func:`fit` tried: the setting as it is, then switch after switch, until the budget was met."""

    budget: int
    rows: Sequence[tuple[str, str, int]]

    @property
    def fits(self) -> bool:
        return self.rows[-1][2] <= self.budget

    def text(self) -> str:
        """Markdown: every estimate, and what to type."""
        shown = [
            [
                name,
                f"{size / GIB:.2f}",
                "yes" if size <= self.budget else "no",
                f"`{override}`" if override else "",
            ]
            for name, override, size in self.rows
        ]
        headers = ["each on top of those before", "GiB", f"in {self.budget / GIB:g} GiB", "override"]
        align = ("left", "right", "left", "left")
        return "\n\n".join(
            [tabulate(shown, headers, "github", colalign=align, disable_numparse=True), self.verdict()]
        )

    def verdict(self) -> str:
        """One sentence."""
        if not self.fits:
            return "None of the switches is enough: take a smaller model, or more memory."
        overrides = {key.partition("=")[0]: key for _, typed, _ in self.rows for key in typed.split()}
        if not overrides:
            return "It fits as it is."
        return f"It fits with: `{' '.join(overrides.values())}`"


def fit(setting: Setting, budget: int, estimator: Callable[[Setting], Memory] = estimate) -> Plan:
    """Try switches until the estimate is within ``budget`` bytes; those that cannot be run are left out."""
    rows = [("as it is", "", estimator(setting).total)]
    offers, refused = switches(setting), None
    with contextlib.suppress(StopIteration):
        while rows[-1][2] > budget:
            switch = offers.send(refused)
            try:
                rows.append((switch.name, switch.override, estimator(switch.setting).total))
                refused = False
            except ConfigError:
                refused = True
    return Plan(budget, rows)
