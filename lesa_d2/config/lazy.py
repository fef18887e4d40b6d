"""Config files and ``key=value`` overrides, with unknown keys refused."""

import difflib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import ConfigError
from .files import find_config

SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A LazyConfig with overrides applied.

    Args:
        file: a .py or a saved .yaml; where there is no such file, the name of a shipped config, such as
            ``mask_rcnn_lesa_r50``.
        overrides: ``key=value``.

    Raises:
        ConfigError: no such config, a missing section, or an override that is malformed or names a key that
            neither the config nor the signature of the thing it configures knows.
    """
    cfg = _load(config_path(file))
    for override in overrides:
        _apply(cfg, override)
    return cfg


def config_path(file: str) -> str:
    """``file`` itself, or where there is no such file, the path of the shipped config of this name.

    Raises:
        ConfigError: there is neither.
    """
    if not file:
        raise ConfigError("no config file: give --config-file, for example configs/mask_rcnn_lesa_r50.py")
    if PathManager.isfile(file):
        return file
    try:
        return str(find_config(file))
    except ConfigError as error:
        state = "is a folder" if PathManager.isdir(file) else "does not exist"
        raise ConfigError(f"config file {file!r} {state}, and {error}") from None


def _load(file: str) -> DictConfig:
    try:
        cfg = LazyConfig.load(file)
    except Exception as error:  # a config is a program
        raise ConfigError(
            f"config file {file!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    missing = [name for name in SECTIONS if name not in cfg]
    if missing:
        hint = " This is a yacs file: see 'yacs' in the README." if "MODEL" in cfg else ""
        raise ConfigError(
            f"{file} does not define {missing}; a training config needs {list(SECTIONS)}.{hint}"
        )
    return cfg


def _apply(cfg: DictConfig, override: str) -> None:
    key, separator, _ = override.partition("=")
    if key.startswith("-"):
        raise ConfigError(f"option {key} stands among the overrides; options go before key=value")
    if not separator:
        raise ConfigError(f"override {override!r} is not of the form key=value")
    check_key(cfg, key.lstrip("+"))
    try:
        LazyConfig.apply_overrides(cfg, [override])
    except Exception as error:  # the override grammar's own errors span many types
        raise ConfigError(f"cannot apply the override {override!r}: {error}") from error


def is_given(key: str, overrides: Sequence[str]) -> bool:
    """Whether ``key`` is among ``key=value`` overrides."""
    return any(override.partition("=")[0].lstrip("+") == key for override in overrides)


def check_key(cfg: DictConfig, key: str) -> None:
    """ConfigError with the nearest valid key unless ``key`` exists or its object's signature takes it."""
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if part not in _known_names(node):
            parent = ".".join(parts[:depth])
            raise ConfigError(f"unknown config key {key!r}{_suggest(cfg, key, parent, node)}")
        node = _child(node, part)


def _child(node: Any, name: str) -> Any:
    if isinstance(node, ListConfig):
        return node[int(name)]
    return OmegaConf.select(node, name) if isinstance(node, DictConfig) else None


def _known_names(node: Any) -> set[str]:
    """Keys below ``node``: those present, and the parameters of the callable it describes."""
    if isinstance(node, ListConfig):
        return {str(index) for index in range(len(node))}
    if not isinstance(node, DictConfig):
        return set()
    return ({str(name) for name in node} | parameters(node)) - {"_target_"}


def parameters(node: DictConfig) -> set[str]:
    """The arguments of the callable that ``node`` describes; empty when it describes none."""
    target = node.get("_target_")
    if isinstance(target, str):  # as in a saved config
        target = locate(target)
    if target is None:
        return set()
    return {name for name in inspect.signature(target).parameters if name not in ("self", "args", "kwargs")}


def _suggest(cfg: DictConfig, key: str, parent: str, node: Any) -> str:
    siblings = [f"{parent}.{name}" if parent else name for name in _known_names(node)]
    others = [name for name in _all_keys(cfg) if name not in SECTIONS]
    near = difflib.get_close_matches(key, [*siblings, *others], n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {parent or 'the config'} has {sorted(siblings)}"


def _all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    for name in _known_names(node):
        yield f"{prefix}{name}"
        child = node._get_node(name if isinstance(node, DictConfig) else int(name))
        yield from _all_keys(child, f"{prefix}{name}.")
