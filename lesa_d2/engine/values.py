"""The values of a config that would otherwise fail late, or not at all."""

import re
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from .trainer import PRECISIONS

Rule = tuple[Callable[[Any], bool], str]


def _whole(least: int) -> Rule:
    def test(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return test, f"a whole number of at least {least}"


def _number(test: Callable[[float], bool], wanted: str) -> Rule:
    return (
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and test(value),
        wanted,
    )


def _one_of(*allowed: Any) -> Rule:
    return lambda value: value in allowed and type(value) in map(type, allowed), f"one of {list(allowed)}"


def _matches(pattern: str, wanted: str) -> Rule:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, wanted


_SWITCH = _one_of(True, False)
_POSITIVE = _number(lambda value: 0 < value < float("inf"), "a positive number")

RULES: dict[str, Rule] = {
    "train.output_dir": _matches(r".+", "a folder"),
    "train.max_iter": _whole(1),
    "train.seed": _whole(0),
    "train.accumulate": _whole(1),
    "train.clip_grad_norm": (lambda value: value is None or _POSITIVE[0](value), "a positive number or null"),
    "train.reference_batch": _whole(1),
    "train.scale_lr": _SWITCH,
    "train.init_checkpoint": (lambda value: isinstance(value, str), 'a path, or "" for none'),
    "train.init_partial": _SWITCH,
    "train.amp.enabled": _SWITCH,
    "train.amp.dtype": _one_of(*PRECISIONS),
    "train.ema.enabled": _SWITCH,
    "train.ema.decay": _number(lambda value: 0 < value < 1, "a number between 0 and 1"),
    "train.ddp": (lambda value: isinstance(value, DictConfig), "options of DistributedDataParallel"),
    "train.checkpointer.period": _whole(1),
    "train.eval_period": _whole(0),
    "train.log_period": _whole(1),
    "train.best_metric": _matches(
        r"(bbox|segm)/AP(50|75|s|m|l|-.+)?", "a metric such as 'segm/AP' or 'bbox/AP50'"
    ),
    "train.device": _matches(r"cpu|cuda(:\d+)?", "'cuda', 'cuda:N' or 'cpu'"),
    "dataloader.train.total_batch_size": _whole(1),
    "optimizer.lr": _POSITIVE,
    "model.input_format": _one_of("RGB", "BGR"),
}


def check_values(cfg: DictConfig) -> None:
    """ConfigError that lists every value which is missing, of another type, or out of range."""
    wrong = []
    for key, (test, wanted) in RULES.items():
        try:
            value = OmegaConf.select(cfg, key, throw_on_missing=True)
            known = _has(cfg, key)
        except Exception as error:  # an override put a value where a section belongs
            value, known = f"nothing ({type(error).__name__})", False
        if not known:
            wrong.append(f"{key} is missing; expected {wanted} (see configs/common/train.py)")
        elif not test(value):
            wrong.append(f"{key} must be {wanted}, got {value!r}")
    if wrong:
        raise ConfigError("wrong values in the config:\n  " + "\n  ".join(wrong))


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent)
    return isinstance(node, DictConfig) and name in node
