"""The table of all config keys that this package reads, with defaults, allowed values and meanings.

:data:`SETTINGS` is used for the check at the start of a command, the defaults of ``configs/common/train.py`` and of
plain detectron2 files, the start report and the table in ``docs/settings.md``.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from tabulate import tabulate
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """Define the allowed values of a key: ``test`` checks a value, ``expected`` describes them in messages."""

    test: Callable[[Any], bool]
    expected: str

    def or_null(self) -> "Rule":
        """Allow null as well."""
        return Rule(lambda value: value is None or self.test(value), f"{self.expected} or null")


def whole(least: int) -> Rule:
    """Allow whole numbers of at least ``least``."""
    return Rule(lambda value: type(value) is int and value >= least, f"a whole number of at least {least}")


def number(test: Callable[[float], bool], expected: str) -> Rule:
    """Allow numbers, not booleans, that pass ``test``."""
    return Rule(lambda value: type(value) in (int, float) and test(value), expected)


def one_of(*allowed: Any) -> Rule:
    """Allow the given values; an equal value of another type is not allowed."""
    return Rule(lambda v: any(v == a and type(v) is type(a) for a in allowed), f"one of {list(allowed)}")


def text(pattern: str, expected: str) -> Rule:
    """Allow text that matches a regular expression completely."""
    return Rule(lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value)), expected)


SWITCH = Rule(lambda value: type(value) is bool, "True or False")
POSITIVE = number(lambda value: 0 < value < float("inf"), "a positive number")
NAMES = Rule(
    lambda value: isinstance(value, ListConfig) and all(isinstance(name, str) for name in value),
    "a list of names",
).or_null()
SEED = Rule(lambda value: type(value) is int and 0 <= value < 2**32, "a whole number from 0 to below 2^32")
SCALES = Rule(
    lambda value: (
        isinstance(value, ListConfig)
        and len(value) > 0
        and all(map(POSITIVE.test, value))
        and max(value) <= 8
    ),
    "a list of positive numbers up to 8 such as [0.75, 1.0, 1.25]",
)
TRACKERS = Rule(
    lambda value: (
        isinstance(value, ListConfig)
        and len(set(value)) == len(value)
        and all(name in ("wandb", "mlflow") for name in value)
    ),
    "a list of 'wandb', 'mlflow' or both",
)
AP = r"(bbox|segm|keypoints)/AP(50|75|s|m|l|-.+)?"
SEMANTIC = r"sem_seg/(mIoU|fwIoU|mACC|pACC|IoU-.+|ACC-.+)|panoptic_seg/(PQ|SQ|RQ)(_th|_st)?"
OTHER = r"(?!(bbox|segm|keypoints|sem_seg|panoptic_seg|accuracy)/).+/.+"  # metrics of a user's own evaluator
METRIC = text(
    rf"{AP}|{SEMANTIC}|accuracy/top[15]|{OTHER}", "a metric such as 'segm/AP', 'bbox/AP50' or 'accuracy/top1'"
)
REQUIRED = object()
"""Marks a key without a default, which every config has to set."""
FOREIGN = object()
"""Marks a key of detectron2, which is checked in configs that have it."""


@dataclass(frozen=True)
class Setting:
    """Describe one key: its default (or ``REQUIRED``, ``FOREIGN``), the rule for its values, and its meaning.

    ``task`` names the only task that has this key; empty where every task has it.
    """

    default: Any
    rule: Rule
    meaning: str
    task: str = ""


SETTINGS: dict[str, Setting] = {
    "train.task": Setting(
        "detection",
        one_of("detection", "classification"),
        "what is trained; detection: on detectron2's records",
    ),
    "train.output_dir": Setting("./output", text(".+", "a folder"), "folder of everything that a run writes"),
    "train.init_checkpoint": Setting(
        "", Rule(lambda value: isinstance(value, str), 'a path, or "" for none'), "weights to start from"
    ),
    "train.init_partial": Setting(
        False, SWITCH, "accept weights of other shapes, which keep their initial value"
    ),
    "train.init_images": Setting(
        32,
        whole(1),
        "training images to which a start from a convolution, and missing statistics of norms, are fitted",
    ),
    "train.init_positions": Setting(
        "fresh",
        one_of("fresh", "interpolated"),
        "position tables of a detector that starts from a classifier; fresh: as in the paper",
    ),
    "train.max_iter": Setting(REQUIRED, whole(1), "optimizer steps of the run"),
    "train.epochs": Setting(
        None,
        POSITIVE.or_null(),
        "passes over the data, from which max_iter follows; null: max_iter as it is",
        "classification",
    ),
    "train.seed": Setting(0, SEED, "order of images, augmentation and sampling follow from it"),
    "train.accumulate": Setting(1, whole(1), "micro-batches of an optimizer step; the batch size stays"),
    "train.clip_grad_norm": Setting(None, POSITIVE.or_null(), "limit of the gradient's 2-norm"),
    "train.non_finite.skip": Setting(
        0, whole(0), "steps in a row that may be left out because they are not finite; 0: training stops"
    ),
    "train.reference_batch": Setting(
        None, whole(1).or_null(), "batch that optimizer.lr was chosen for; null: that of the config file"
    ),
    "train.reference_images": Setting(
        None,
        whole(1).or_null(),
        "training images that max_iter was chosen for; --dataset fits the schedule by it",
        "detection",
    ),
    "train.scale_lr": Setting(False, SWITCH, "scale optimizer.lr linearly with the batch"),
    "train.channels_last": Setting(False, SWITCH, "memory layout of weights, images and feature maps"),
    "train.cudnn_benchmark": Setting(
        False, SWITCH, "cuDNN tries its algorithms for every new size in training; for images of one size"
    ),
    "train.tf32": Setting(
        False, SWITCH, "on GPUs, products of float32 matrices round their factors to 10 bits (TF32)"
    ),
    "train.compile": Setting(False, SWITCH, "compile the backbone by torch.compile"),
    "train.amp.enabled": Setting(False, SWITCH, "mixed precision; logits and softmax stay in float32"),
    "train.amp.dtype": Setting(
        None,
        one_of("float32", "bfloat16", "float16").or_null(),
        "its type; null: float16 on a GPU, as detectron2, and float32 on the CPU",
    ),
    "train.tta.enabled": Setting(False, SWITCH, "evaluate at several sizes and merge", "detection"),
    "train.tta.scales": Setting([0.75, 1.0, 1.25], SCALES, "these sizes, as multiples", "detection"),
    "train.tta.flip": Setting(True, SWITCH, "evaluate each size flipped too", "detection"),
    "train.report.enabled": Setting(
        False, SWITCH, "report on data and evaluation of boxes and masks: tables and pictures", "detection"
    ),
    "train.report.score_threshold": Setting(
        None,
        number(lambda value: 0 <= value < 1, "a number from 0 to below 1").or_null(),
        "least score of the report's detections; null: the one with the best F1",
        "detection",
    ),
    "train.report.pictures": Setting(
        "last",
        one_of("last", "every"),
        "evaluations whose report has plots and pictures: the run's last one, or every one",
        "detection",
    ),
    "train.ema.enabled": Setting(
        False, SWITCH, "average the weights; the average is evaluated and saved too"
    ),
    "train.ema.decay": Setting(
        0.9998,
        number(lambda value: 0 < value < 1, "a number between 0 and 1"),
        "share of the average in a step",
    ),
    "train.ddp.broadcast_buffers": Setting(False, SWITCH, "of DistributedDataParallel"),
    "train.ddp.find_unused_parameters": Setting(False, SWITCH, "of DistributedDataParallel"),
    "train.ddp.gradient_as_bucket_view": Setting(
        True, SWITCH, "of DistributedDataParallel: gradients are kept once, not twice"
    ),
    "train.ddp.static_graph": Setting(
        False, SWITCH, "of DistributedDataParallel: every step uses the same parameters, equally often"
    ),
    "train.ddp.fp16_compression": Setting(False, SWITCH, "exchange gradients in float16, as detectron2 does"),
    "train.checkpointer.period": Setting(5000, whole(1), "iterations between two checkpoints"),
    "train.checkpointer.max_to_keep": Setting(3, whole(1).or_null(), "periodic checkpoints that are kept"),
    "train.checkpointer.minutes": Setting(
        None, POSITIVE.or_null(), "longest time between two checkpoints; null: only the period counts"
    ),
    "train.eval_period": Setting(5000, whole(0), "iterations between two evaluations; 0: only at the end"),
    "train.best_metric": Setting(
        None, METRIC.or_null(), "model_best.pth keeps the highest; null: no such file"
    ),
    "train.log_period": Setting(20, whole(1), "iterations between two lines of the log"),
    "train.trackers": Setting(
        [], TRACKERS, "programs that get the scalars of the log too, each from its own package"
    ),
    "train.class_names": Setting(None, NAMES, "taken from the data, so that a saved config knows them"),
    "train.stuff_names": Setting(None, NAMES, "the same of semantic segmentation", "detection"),
    "train.device": Setting(
        "cuda",
        text(r"cpu|cuda(:\d+)?", "'cuda', 'cuda:N' or 'cpu'"),
        "the CPU is used, with a message, where there is no GPU",
    ),
    "dataloader.train.total_batch_size": Setting(
        FOREIGN, whole(1), "images of an optimizer step, over all processes and micro-batches"
    ),
    "dataloader.train.num_workers": Setting(FOREIGN, whole(0), "processes that read images for training"),
    "dataloader.test.num_workers": Setting(FOREIGN, whole(0), "processes that read images for evaluation"),
    "dataloader.test.batch_size": Setting(FOREIGN, whole(1), "images of an evaluation step"),
    "optimizer.lr": Setting(FOREIGN, POSITIVE, "base learning rate"),
    "lr_multiplier.warmup_length": Setting(
        FOREIGN,
        number(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
        "share of the run that warms up",
    ),
    "model.input_format": Setting(FOREIGN, one_of("RGB", "BGR"), "channel order that the model expects"),
    "model.label_smoothing": Setting(
        FOREIGN,
        number(lambda value: 0 <= value < 1, "a number from 0 to below 1"),
        "share of the target that is spread over all classes",
        "classification",
    ),
    "model.mixup": Setting(
        FOREIGN,
        number(lambda value: 0 <= value < float("inf"), "a number of at least 0"),
        "α of mixing two pictures; 0: off",
        "classification",
    ),
    "model.cutmix": Setting(
        FOREIGN,
        number(lambda value: 0 <= value < float("inf"), "a number of at least 0"),
        "α of pasting a part of one picture into another; 0: off",
        "classification",
    ),
}


def settings_of(task: str) -> dict[str, Setting]:
    """Return the settings that a task has, by key."""
    return {key: setting for key, setting in SETTINGS.items() if setting.task in ("", task)}


def default_train(task: str = "detection") -> DictConfig:
    """Return a ``train`` section with the defaults of a task; keys that a config has to set are left out."""
    cfg = OmegaConf.create({"train": {"task": task}})
    fill_defaults(cfg)
    return cfg.train


def fill_defaults(cfg: DictConfig) -> None:
    """Add, in place, the default of every key that a config leaves out.

    A config without ``train.task``, such as a plain detectron2 file, is one for detection.
    """
    task = OmegaConf.select(cfg, "train.task") or "detection"
    for key, setting in settings_of(task).items():
        if setting.default in (REQUIRED, FOREIGN) or has_key(cfg, key):
            continue
        if _has_section(cfg, key):
            OmegaConf.update(cfg, key, setting.default)
    if has_key(cfg, "train.reference_batch") and cfg.train.reference_batch is None:
        cfg.train.reference_batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")


def _has_section(cfg: DictConfig, key: str) -> bool:
    """Tell whether ``key`` can be added: every part of it before the last is a section, or missing."""
    parts = key.split(".")[:-1]
    above = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    return all(not has_key(cfg, name) or OmegaConf.is_dict(_selected(cfg, name)) for name in above)


def _selected(cfg: DictConfig, key: str) -> Any:
    """Return the value of a key; None where it is a reference that leads nowhere."""
    try:
        return OmegaConf.select(cfg, key)
    except Exception:  # what is raised depends on what is wrong
        return None


def has_key(cfg: DictConfig, key: str) -> bool:
    """Tell whether a config has a key, also if its value is null."""
    parent, _, name = key.rpartition(".")
    try:
        node = OmegaConf.select(cfg, parent) if parent else cfg
    except Exception:  # there is a value instead of a section
        return False
    return isinstance(node, DictConfig) and name in node


def check_settings(
    cfg: DictConfig,
    *,
    sections: tuple[str, ...] = ("train", "dataloader", "optimizer", "model", "lr_multiplier"),
) -> None:
    """Check every value of ``sections`` that :data:`SETTINGS` describes.

    Raises:
        ConfigError: a value is missing, of another type or out of range, a reference leads nowhere, or a key of the
            ``train`` section looks like a misspelled one of ours; the message lists all of them.
    """
    task = OmegaConf.select(cfg, "train.task") if has_key(cfg, "train.task") else "detection"
    faults = list(dict.fromkeys(_not_sections(cfg, sections)))
    for key, setting in settings_of(task if isinstance(task, str) else "detection").items():
        if key.split(".")[0] in sections:
            faults += _faults(cfg, key, setting)
    if isinstance(_selected(cfg, "train"), DictConfig):
        faults += [*_misspelled(cfg), *_unknown_to_ddp(cfg)]
    faults = faults or [fault for name in sections for fault in _dangling(cfg, name)]
    if faults:
        raise ConfigError("wrong values in the config:\n  " + "\n  ".join(faults))


def _dangling(node: DictConfig | ListConfig, name: str | int, above: str = "") -> Iterator[str]:
    """Yield a message for each reference at or below ``name`` that leads to no value."""
    if isinstance(node, DictConfig) and name not in node:
        return
    key = f"{above}.{name}" if above else str(name)
    if OmegaConf.is_interpolation(node, name):
        try:
            node[name]
        except Exception as error:  # what is raised depends on what is wrong
            text = OmegaConf.to_container(node, resolve=False)[name]
            yield f"{key}={text} leads nowhere ({type(error).__name__})"
    elif not OmegaConf.is_missing(node, name):
        child = node[name]
        inside = (
            child if isinstance(child, DictConfig) else range(len(child)) if OmegaConf.is_list(child) else ()
        )
        for inner in inside:
            yield from _dangling(child, inner, key)


def _not_sections(cfg: DictConfig, sections: tuple[str, ...]) -> Iterator[str]:
    """Yield a message for each section, and for each part of ``train``, that is a single value or a list."""
    of_data = ("dataloader.train", "dataloader.test") if "dataloader" in sections else ()
    of_training = [key.rpartition(".")[0] for key in SETTINGS if key.startswith("train.")]
    for key in (*sections, *of_data, *of_training):
        if has_key(cfg, key) and not isinstance(value := _selected(cfg, key), DictConfig):
            yield f"{key} must be a section of the config, got {value!r}"


def _faults(cfg: DictConfig, key: str, setting: Setting) -> Iterator[str]:
    if not _has_section(cfg, key):  # one message says so for all its keys
        return
    if not has_key(cfg, key):
        if setting.default is not FOREIGN:
            yield f"{key} is missing; expected {setting.rule.expected} (docs/settings.md)"
        return
    try:
        value = OmegaConf.select(cfg, key, throw_on_missing=True)
        is_right = setting.rule.test(value)
    except Exception as error:  # an interpolation of a missing key, or "???"
        yield f"{key} must be {setting.rule.expected}, got nothing ({type(error).__name__})"
        return
    if not is_right:
        yield f"{key} must be {setting.rule.expected}, got {value!r}"


def ddp_arguments() -> set[str]:
    """Return the names that ``train.ddp`` may have: those of DistributedDataParallel that a config can give."""
    ours = {"module", "device_ids", "output_device"}
    return {"fp16_compression", *inspect.signature(DistributedDataParallel).parameters} - ours


def _unknown_to_ddp(cfg: DictConfig) -> Iterator[str]:
    """Yield a message for each key of ``train.ddp`` that DistributedDataParallel does not have."""
    section = _selected(cfg, "train.ddp")
    for name in section if isinstance(section, DictConfig) else ():
        if name not in ddp_arguments():
            yield f"unknown key train.ddp.{name}; expected one of {', '.join(sorted(ddp_arguments()))}"


def _misspelled(cfg: DictConfig) -> Iterator[str]:
    """Yield a message for each unknown key of ``train`` that resembles one of ours; other keys are a user's own."""
    known = {key.split(".")[1] for key in SETTINGS if key.startswith("train.")}
    for name in cfg.train:
        near = [] if name in known else difflib.get_close_matches(str(name), known, n=1, cutoff=0.8)
        if near:
            yield f"unknown key train.{name}; did you mean 'train.{near[0]}'?"


def changed_settings(cfg: DictConfig) -> list[str]:
    """Return ``key=value`` for the switches and numbers of a run that differ from their defaults."""
    settings = settings_of(cfg.train.task)
    return [
        f"{key}={value}"
        for key, setting in settings.items()
        if setting.default not in (REQUIRED, FOREIGN)
        and (value := OmegaConf.select(cfg, key)) != setting.default
        and isinstance(value, int | float)
    ]


def settings_table() -> str:
    """Return all settings as a Markdown table, for ``docs/settings.md``."""

    def shown(setting: Setting) -> str:
        if setting.default is REQUIRED:
            return "set by the config"
        if setting.default is FOREIGN:
            return "of the config, if any"
        return "null" if setting.default is None else f"`{setting.default!r}`"

    rows = [
        [f"`{key}`", shown(s), s.rule.expected, s.meaning + (f" ({s.task} only)" if s.task else "")]
        for key, s in SETTINGS.items()
    ]
    return tabulate(rows, ["key", "default", "values", "meaning"], "github", disable_numparse=True)


if __name__ == "__main__":
    print(settings_table())
