"""Which switches make a step fit in a given memory, and what to type for them."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate

from ...config.lazy import lesa_backbones
from ...errors import ConfigError
from .memory import MeasuredModel, Setting
from .step import Size

GIB = 2**30
STAGES = ("res5", "res4", "res3", "res2")
SMALLER = (0.75, 0.5)  # of the image's sides
SIZED = {
    "shape": "{key}.shape=[{height},{width}]",
    "size": "{key}.size=[{height},{width}]",
    "crop_size": "{key}.crop_size=[{height},{width}]",
    "ranges": "{key}.ranges=[[{half},{longest}]]",
    "max_size": "{key}.short_edge_length=[{height}] {key}.max_size={longest}",
}
"""Argument of an augmentation that limits the size of the images -> what to type for another size."""

Switch = tuple[str, str, Callable[[Setting], Setting]]
"""Name, what to type, and what it makes of a setting."""
Row = tuple[str, str, int]
"""Name of a switch, what to type, and bytes of the step with it and those before."""


def switches(setting: Setting) -> Iterator[Switch]:
    """Yield what saves memory: what changes no result first, smaller images last."""
    cfg, training = setting.measured.cfg, setting.measured.training
    backbones = lesa_backbones(cfg)
    for key, node in backbones.items():
        if node.get("backend", "auto") in ("reference", "sdpa"):
            yield _of_config("attention without maps of all pairs", {f"{key}.backend": "auto"})
    if training:
        yield from _micro_batches(setting)
        for key, node in backbones.items():
            yield from _checkpointed_stages(f"{key}.checkpoint_stages", node)
        if not cfg.train.amp.enabled:
            changes = {"train.amp.enabled": True, "train.amp.dtype": "bfloat16"}
            yield _of_config("mixed precision", changes)
    elif setting.images > 1:
        yield "one image at a time", "dataloader.test.batch_size=1", partial(_with, images=1)
    for scale in SMALLER:
        height, width = (min(side, max(32, round(side * scale / 32) * 32)) for side in setting.size)
        typed = _size_override(cfg, training, (height, width))
        yield (
            f"images of {height}×{width}",
            typed,
            partial(_with, size=(height, width)),
        )


def _with(setting: Setting, **changes: Any) -> Setting:
    return replace(setting, **changes)


def _of_config(name: str, changes: Mapping[str, Any]) -> Switch:
    def change(setting: Setting) -> Setting:
        cfg = copy.deepcopy(setting.measured.cfg)
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value)
        return replace(setting, measured=MeasuredModel(cfg, setting.measured.training))

    typed = [f"{key}={value}".replace("'", "").replace(" ", "") for key, value in changes.items()]
    return name, " ".join(typed), change


def _micro_batches(setting: Setting) -> Iterator[Switch]:
    size = setting.micro_batch
    while size > 1:
        size = -(-size // 2)
        number = -(-setting.images // size)
        name = f"{size} image(s) at a time, gradients added up"
        yield name, f"train.accumulate={number}", partial(_with, accumulate=number)


def _checkpointed_stages(key: str, node: DictConfig) -> Iterator[Switch]:
    stages = list(node.get("checkpoint_stages") or [])
    for stage in STAGES:
        if stage not in stages and int(stage[-1]) > node.get("freeze_at", 0):
            stages = sorted([*stages, stage])
            yield _of_config(f"{', '.join(stages)} computed again in the backward pass", {key: stages})


def _sized_augmentation(cfg: DictConfig, training: bool) -> tuple[str, DictConfig, str] | None:
    """Return the augmentation that limits the size of the images: its key, itself, and its argument."""
    for loader in ("train",) if training else ("test", "train"):
        for key in ("mapper.augmentations", "mapper.transform.transforms"):
            found = OmegaConf.select(cfg, f"dataloader.{loader}.{key}") or []
            for index in reversed(range(len(found))):
                for name in () if OmegaConf.is_interpolation(found, index) else SIZED:
                    if found[index].get(name) is not None:
                        return f"dataloader.{loader}.{key}.{index}", found[index], name
    return None


def _size_override(cfg: DictConfig, training: bool, size: Size) -> str:
    """Return what to type for images of ``size``; nothing where no augmentation limits it."""
    found = _sized_augmentation(cfg, training)
    values = {"height": size[0], "width": size[1], "half": min(size) // 2, "longest": max(size)}
    return SIZED[found[2]].format(key=found[0], **values) if found else ""


def largest_size(cfg: DictConfig, training: bool) -> Size:
    """Return the size (H, W) of the largest images that the config's model sees.

    Raises:
        ConfigError: neither the augmentations nor the backbone tell.
    """
    sizes = [node.image_size for node in lesa_backbones(cfg).values() if node.get("image_size") is not None]
    found = _sized_augmentation(cfg, training)
    if found:
        _, node, name = found
        sizes = [node[name]]
        if name == "ranges":
            sizes = [max(high for _, high in node.ranges)]
        elif name == "max_size":
            short = node.short_edge_length
            sizes = [(short if isinstance(short, int) else max(short), node.max_size)]
    if not sizes:
        raise ConfigError("the config does not say how large its images are; give --image-size H W")
    return (sizes[0], sizes[0]) if isinstance(sizes[0], int) else (sizes[0][0], sizes[0][-1])


def fit(
    setting: Setting, budget: int, memory: Callable[[Setting], Mapping[str, int]] = Setting.memory
) -> list[Row]:
    """Try switches until a step takes at most ``budget`` bytes; those that cannot be run are left out."""
    rows: list[Row] = [("as it is", "", sum(memory(setting).values()))]
    for name, override, change in switches(setting):
        if rows[-1][2] <= budget:
            break
        with contextlib.suppress(ConfigError):
            changed = change(setting)
            rows.append((name, override, sum(memory(changed).values())))
            setting = changed
    return rows


def fit_text(rows: Sequence[Row], budget: int) -> str:
    """Return a Markdown table of what was tried, and one sentence: whether it fits, and with what."""
    shown = [
        [name, f"{size / GIB:.2f}", "yes" if size <= budget else "no", f"`{override}`" if override else ""]
        for name, override, size in rows
    ]
    headers = ["each on top of those before", "GiB", f"in {budget / GIB:g} GiB", "override"]
    typed = {key.partition("=")[0]: key for _, override, _ in rows for key in override.split()}
    verdict = f"It fits with: `{' '.join(typed.values())}`" if typed else "It fits as it is."
    if rows[-1][2] > budget:
        verdict = "None of the switches is enough: take a smaller model, or more memory."
    align = ("left", "right", "left", "left")
    return f"{tabulate(shown, headers, 'github', colalign=align, disable_numparse=True)}\n\n{verdict}"
