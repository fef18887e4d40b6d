"""The values of a config that would otherwise fail late, or not at all."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import ConfigError
from .trainer import PRECISIONS

Rule = tuple[Callable[[Any], bool], str]


def whole(least: int) -> Rule:
    """Whole numbers from ``least`` on."""

    def test(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return test, f"a whole number of at least {least}"


def number(test: Callable[[float], bool], wanted: str) -> Rule:
    """Numbers, not booleans, that pass ``test``."""
    return (
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and test(value),
        wanted,
    )


def _one_of(*allowed: Any) -> Rule:
    return lambda value: value in allowed and type(value) in map(type, allowed), f"one of {list(allowed)}"


def matches(pattern: str, wanted: str) -> Rule:
    """Texts that the regular expression describes as a whole."""
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, wanted


def _are_scales(value: Any) -> bool:
    test, _ = POSITIVE
    return isinstance(value, ListConfig) and len(value) > 0 and all(map(test, value))


_SWITCH = _one_of(True, False)
POSITIVE = number(lambda value: 0 < value < float("inf"), "a positive number")


def or_null(rule: Rule) -> Rule:
    """What ``rule`` allows, and null."""
    test, wanted = rule
    return lambda value: value is None or test(value), f"{wanted} or null"


def explained(rule: Rule, remark: str) -> Rule:
    """``rule`` with a remark in the message."""
    return rule[0], f"{rule[1]} ({remark})"


RULES: dict[str, Rule] = {
    "train.output_dir": matches(r".+", "a folder"),
    "train.max_iter": whole(1),
    "train.seed": whole(0),
    "train.accumulate": whole(1),
    "train.clip_grad_norm": or_null(POSITIVE),
    "train.reference_batch": whole(1),
    "train.scale_lr": _SWITCH,
    "train.init_checkpoint": (lambda value: isinstance(value, str), 'a path, or "" for none'),
    "train.init_partial": _SWITCH,
    "train.amp.enabled": _SWITCH,
    "train.channels_last": _SWITCH,
    "train.compile": _SWITCH,
    "train.amp.dtype": _one_of(*PRECISIONS),
    "train.ema.enabled": _SWITCH,
    "train.ema.decay": number(lambda value: 0 < value < 1, "a number between 0 and 1"),
    "train.ddp": (lambda value: isinstance(value, DictConfig), "options of DistributedDataParallel"),
    "train.checkpointer.period": whole(1),
    "train.eval_period": whole(0),
    "train.log_period": whole(1),
    "train.device": matches(r"cpu|cuda(:\d+)?", "'cuda', 'cuda:N' or 'cpu'"),
    "dataloader.train.total_batch_size": whole(1),
    "optimizer.lr": POSITIVE,
    "model.input_format": _one_of("RGB", "BGR"),
}


OPTIONAL_RULES: dict[str, Rule] = {
    "dataloader.train.num_workers": whole(0),
    "dataloader.test.num_workers": whole(0),
    "train.checkpointer.max_to_keep": whole(1),
    "train.class_names": (
        lambda value: value is None or isinstance(value, ListConfig),
        "a list of names or null (it is taken from the data)",
    ),
    "train.reference_images": or_null(whole(1)),
    "train.report.enabled": _SWITCH,
    "train.report.score_threshold": or_null(
        number(lambda value: 0 <= value < 1, "a number from 0 to below 1")
    ),
    "train.tta.enabled": _SWITCH,
    "train.tta.flip": _SWITCH,
    "train.tta.scales": (_are_scales, "a list of positive numbers such as [0.75, 1.0, 1.25]"),
}
"""Of keys that a config may leave out."""


def check_values(cfg: DictConfig, rules: Mapping[str, Rule]) -> None:
    """ConfigError that lists every value which is missing, of another type, or out of range.

    Args:
        cfg: a training config.
        rules: of the task, beside ``RULES``.
    """
    wrong = []
    for key, (test, wanted) in {**RULES, **rules, **OPTIONAL_RULES}.items():
        try:
            value = OmegaConf.select(cfg, key, throw_on_missing=True)
            known = _has(cfg, key)
        except Exception as error:  # an override put a value where a section belongs
            value, known = f"nothing ({type(error).__name__})", False
        if not known and key in OPTIONAL_RULES:
            continue
        if not known:
            where = " (see configs/common/train.py)" if key.startswith("train.") else ""
            wrong.append(f"{key} is missing; expected {wanted}{where}")
        elif not test(value):
            wrong.append(f"{key} must be {wanted}, got {value!r}")
    if wrong:
        raise ConfigError("wrong values in the config:\n  " + "\n  ".join(wrong))


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent)
    return isinstance(node, DictConfig) and name in node
