"""Reading of LazyConfig files, and ``key=value`` overrides that refuse unknown keys."""

import ast
import builtins
import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from detectron2.config import LazyConfig
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError, described, is_of_user, shortened
from ..trust import check_names, named
from .files import find_config
from .overrides import Fits, read_value, split_override
from .settings import SETTINGS, ddp_arguments, fill_defaults
from .yaml_form import load_yaml

MAX_REFERENCES = 20  # that lead to one another; more are a circle
SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a LazyConfig, complete it with the defaults of our own keys, and apply overrides.

    Args:
        file: a .py file or the .yaml file that a run saved; if there is no such file, the name of one of our configs,
            such as ``mask_rcnn_lesa_r50``, or of detectron2's, such as
            ``new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ``.
        overrides: ``key=value``.

    Raises:
        ConfigError: there is no such config, it has an error, a section is missing, or an override is malformed
            or has a key that is neither in the config nor an argument of the object that it configures.
    """
    cfg = read_config(config_path(file))
    apply_overrides(cfg, overrides)
    return cfg


def config_path(file: str) -> str:
    """Return ``file`` itself; if there is no such file, return the path of the config with this name.

    Raises:
        ConfigError: there is no such file and no such config.
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


def read_config(file: str) -> DictConfig:
    """Read a config file and fill in the defaults of our own keys.

    Raises:
        ConfigError: the file has an error, which is reported with file and line, or a section is missing.
    """
    original_import = builtins.__import__
    try:
        if file.endswith(".py"):
            config_sources(file)
            cfg = LazyConfig.load(file)
        else:
            cfg = load_yaml(file)
    except Exception as error:  # a config is a program and may raise anything
        if isinstance(error, ConfigError) and not is_of_user(error):
            raise
        raise ConfigError(f"config file {file!r} cannot be loaded: {described(error)}") from error
    finally:
        builtins.__import__ = original_import  # after an error detectron2 does not restore it
    missing = [name for name in SECTIONS if name not in cfg]
    if missing:
        if "MODEL" in cfg:
            raise ConfigError(
                f"{file} is a yacs file, and a LazyConfig is expected here, such as mask_rcnn_lesa_r50 (lesa zoo lists "
                'all). detectron2\'s DefaultTrainer trains yacs files: docs/from_detectron2.md, "In a yacs project", '
                "has the lines; lesa demo and lesa predict take them as they are"
            )
        raise ConfigError(f"{file} does not define {missing}; a training config needs {list(SECTIONS)}")
    _check_sections(cfg, file)
    fill_defaults(cfg)
    return cfg


def _check_sections(cfg: DictConfig, file: str) -> None:
    """Check that every section of a config has keys.

    Raises:
        ConfigError: one is a value, a list, or a reference that leads nowhere.
    """
    for name in SECTIONS:
        try:
            section = cfg[name]
        except Exception as error:  # what is raised depends on what is wrong
            raise ConfigError(f"{file}: {name} refers to what is not there: {described(error)}") from error
        if not isinstance(section, DictConfig):
            raise ConfigError(f"{file}: {name} must be a section of the config, got {section!r}")


def config_sources(file: str) -> dict[str, str]:
    """Return the text of a config file and of all that it imports relatively, by path.

    Raises:
        SyntaxError: one of them is not valid Python; the message names file and line.
    """
    sources: dict[str, str] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path in sources or not PathManager.isfile(path):  # detectron2 reports what is missing
            continue
        with PathManager.open(path) as content:
            sources[path] = content.read()
        for node in ast.walk(ast.parse(sources[path], path)):
            waiting += _read_by(node, Path(path).absolute())
    return sources


def _read_by(node: ast.AST, path: Path) -> Iterator[str]:
    """Yield the config file that a relative import or ``LazyConfig.load_rel("file.py")`` in ``path`` reads."""
    if isinstance(node, ast.ImportFrom) and node.level and node.module and node.level <= len(path.parents):
        folder = path.parents[node.level - 1]
        yield str(folder.joinpath(*node.module.split(".")).with_suffix(".py"))
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load_rel" and node.args:
        name = getattr(node.args[0], "value", None)
        if isinstance(name, str) and name.endswith(".py"):
            yield str(path.parent / name)


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Apply ``key=value`` overrides, in place; applying them again changes nothing.

    Raises:
        ConfigError: see :func:`load_config`.
    """
    known = set(named(OmegaConf.to_container(cfg))) if overrides else set()  # checked, or of a program
    for override in overrides:
        key, text = split_override(override)
        key = key.lstrip("+")
        check_key(cfg, key)
        value = read_value(key, text, _fits(cfg, key))
        try:
            OmegaConf.update(cfg, key, value, merge=isinstance(value, dict))
        except Exception as error:  # OmegaConf raises errors of many types
            raise ConfigError(f"cannot apply the override {override[:500]!r}: {shortened(error)}") from error
        if isinstance(value, str | list | dict):
            check_names(OmegaConf.to_container(cfg), known)


def _fits(cfg: DictConfig, key: str) -> Fits | None:
    """Return a function that tells whether a key takes a value; None where nothing is known about it."""
    if key in SETTINGS:
        return lambda value: _obeys(cfg, key, value)
    parent, _, name = key.rpartition(".")
    if name in _text_parameters(OmegaConf.select(cfg, parent) if parent else cfg):
        return lambda value: isinstance(value, str)
    is_text = isinstance(_child(OmegaConf.select(cfg, parent) if parent else cfg, name), str)
    return (lambda value: True) if is_text else None


def _obeys(cfg: DictConfig, key: str, value: Any) -> bool:
    """Tell whether a value obeys the rule of its key; references in a list are those of the config.

    One that leads nowhere does not hinder: the check of the settings names it.
    """
    try:
        value = OmegaConf.create(value, parent=cfg) if isinstance(value, list) else value
        return SETTINGS[key].rule.test(value)
    except OmegaConfBaseException:
        return True


def _text_parameters(node: Any) -> set[str]:
    """Return the names of the arguments of the callable of a node that take a text or a path, and nothing else."""
    kinds = {name: p.annotation for name, p in _signature(node).items()}
    members = {name: get_args(kind) if _is_union(kind) else (kind,) for name, kind in kinds.items()}
    return {name for name, of in members.items() if str in of and set(of) <= {str, Path, type(None)}}


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def override_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys of ``key=value`` overrides."""
    return {override.partition("=")[0].lstrip("+") for override in overrides}


def check_key(cfg: DictConfig, key: str) -> None:
    """Check that ``key`` exists, or that it is an argument of the object that the config describes there.

    Raises:
        ConfigError: it is neither, and the message names the nearest key; or it lies below a reference ``${…}``, and
            the message names the key of what is referred to.
    """
    _check_no_reference(cfg, key)
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        parent = ".".join(parts[:depth])
        if part not in _known_names(node) | (ddp_arguments() if parent == "train.ddp" else set()):
            raise ConfigError(f"unknown config key {key!r}{_suggest(cfg, key, parent, node)}")
        node = _child(node, part)


def _check_no_reference(cfg: DictConfig, key: str) -> None:
    """Check that no node above ``key`` is a reference: an override would replace it by the one value given.

    Raises:
        ConfigError: one is.
    """
    above = key.rpartition(".")[0]
    referring, text = _first_reference(cfg, above)
    if not referring:
        return
    origin = _referred(cfg, key)
    advice = f"set {origin}, which changes both" if origin else f"give a value for {referring} as a whole"
    raise ConfigError(f"cannot set {key}: {referring} is the reference {text}; {advice}")


def _first_reference(cfg: DictConfig, key: str) -> tuple[str, str]:
    """Return the shortest key on the way to ``key``, itself included, that is a reference, and its text; or empty."""
    node: Any = cfg
    parts = key.split(".") if key else []
    for depth, part in enumerate(parts, start=1):
        if not isinstance(node, DictConfig | ListConfig) or part not in _known_names(node):
            break
        name = int(part) if isinstance(node, ListConfig) else part
        if OmegaConf.is_interpolation(node, name):
            return ".".join(parts[:depth]), str(OmegaConf.to_container(node, resolve=False)[name])
        node = _child(node, part)
    return "", ""


def _referred(cfg: DictConfig, key: str) -> str:
    """Follow all references on the way to ``key``; return the key of the same value, or "" where there is none."""
    for _ in range(MAX_REFERENCES):
        referring, text = _first_reference(cfg, key.rpartition(".")[0])
        if not referring:
            return key
        simple = re.fullmatch(r"\$\{(\.*)([\w.\[\]]+)\}", text)
        if simple is None:  # a resolver, whose result is no part of the config
            return ""
        dots, name = simple.groups()
        parents = referring.split(".")[: -len(dots)] if dots else []
        target_key = [*parents, *re.sub(r"\[(\w+)\]", r".\1", name).split(".")]
        key = ".".join(target_key) + key[len(referring) :]
    return ""


def _child(node: Any, name: str) -> Any:
    """Return the value of ``name`` below ``node``; None if there is none yet."""
    try:
        if isinstance(node, ListConfig):
            return node[int(name)]
        return OmegaConf.select(node, name) if isinstance(node, DictConfig) else None
    except Exception:  # an interpolation of a missing key
        return None


def _known_names(node: Any) -> set[str]:
    """Return the keys below ``node``: those present, and the parameters of the callable it describes."""
    if isinstance(node, ListConfig):
        return {str(index) for index in range(len(node))}
    if not isinstance(node, DictConfig):
        return set()
    return ({str(name) for name in node} | parameters(node)) - {"_target_"}


def parameters(node: DictConfig) -> set[str]:
    """Return the names of the arguments of the callable that ``node`` describes; an empty set if it describes none."""
    return {name for name in _signature(node) if name not in ("self", "args", "kwargs")}


def _signature(node: Any) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of the callable of a node; none where there is no callable, or it does not tell."""
    function = target(node)
    try:
        return inspect.signature(function).parameters if callable(function) else {}
    except (TypeError, ValueError):  # written in C
        return {}


def target(node: Any) -> Any:
    """Return the callable that a node of a config describes; None if it describes none."""
    value = node.get("_target_") if isinstance(node, DictConfig) else None
    if not isinstance(value, str):
        return value
    try:
        return locate(value)  # a saved config has the path as text
    except ImportError as error:
        raise ConfigError(f"the config names {value!r}, which cannot be imported: {error}") from error


def nodes(node: Any, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield every section of a config with its key; the key of the config itself is empty."""
    if isinstance(node, DictConfig):
        yield prefix, node
    if isinstance(node, DictConfig | ListConfig):
        for name in node if isinstance(node, DictConfig) else range(len(node)):
            if not OmegaConf.is_interpolation(node, name) and not OmegaConf.is_missing(node, name):
                yield from nodes(node[name], f"{prefix}.{name}" if prefix else str(name))


def lesa_backbones(cfg: DictConfig) -> dict[str, DictConfig]:
    """Return the sections of a config that :func:`lesa_d2.modeling.build_lesa_resnet` builds, by key."""
    from ..modeling import build_lesa_resnet

    return {key: node for key, node in nodes(cfg) if target(node) is build_lesa_resnet}


def _suggest(cfg: DictConfig, key: str, parent: str, node: Any) -> str:
    siblings = [f"{parent}.{name}" if parent else name for name in _known_names(node)]
    keys = {f"{prefix}.{name}" for prefix, section in nodes(cfg) if prefix for name in _known_names(section)}
    near = difflib.get_close_matches(key, [*siblings, *sorted(keys | set(SETTINGS))], n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {parent or 'the config'} has {sorted(siblings)}"
