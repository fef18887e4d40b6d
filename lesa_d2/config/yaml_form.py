"""LazyConfigs as YAML without Python objects, which a run saves and later reads again.

Classes and functions are written as their import paths.  A config with other objects, such as a lambda or a class of
the config file itself, has no such form; :mod:`.record` keeps its source instead.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf, SCMode

ALLOWED = ("torch", "torchvision", "detectron2", "fvcore", "lesa_d2", "functools", "builtins.tuple")
"""Packages whose classes and functions may be in the tags of a YAML file, which detectron2 writes."""


class NoYamlFormError(TypeError):
    """Report a value that YAML without Python objects cannot hold."""


def partial_of(function: Callable, **arguments: Any) -> functools.partial:
    """Return ``functools.partial(function, **arguments)``; a config describes a partial as a call of this function."""
    return functools.partial(function, **arguments)


def to_yaml(cfg: Any) -> str:
    """Return a config as YAML.

    Raises:
        NoYamlFormError: a value in it has no form without Python objects.
    """
    return yaml.safe_dump(plain(cfg), default_flow_style=None, allow_unicode=True, width=9999, sort_keys=True)


def plain(value: Any) -> Any:
    """Return a config, or a value in it, as dicts, lists, text and numbers, from which it can be built again.

    Raises:
        NoYamlFormError: there is no such form.
    """
    if OmegaConf.is_config(value):
        return plain(OmegaConf.to_container(value, resolve=False, structured_config_mode=SCMode.INSTANTIATE))
    if isinstance(value, Mapping):
        target = {"_target_": _path(value["_target_"])} if "_target_" in value else {}
        return {**{_key(k): plain(v) for k, v in value.items() if k != "_target_"}, **target}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {**fields, "_target_": _path(type(value))}
    if isinstance(value, functools.partial) and not value.args:
        arguments = {name: plain(argument) for name, argument in value.keywords.items()}
        return {**arguments, "function": plain(value.func), "_target_": _path(partial_of)}
    return {"name": _path(value), "_target_": _path(locate)}


def _key(key: Any) -> Any:
    if type(key) not in (str, int):
        raise NoYamlFormError(f"the key {key!r}")
    return key


def _path(value: Any) -> str:
    """Return the import path of a class or function."""
    if isinstance(value, str):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    path = f"{module}.{name}"
    try:
        if module and name and locate(path) is value:
            return path
    except Exception:  # importing a module may raise anything
        pass
    raise NoYamlFormError(f"{value!r}, which cannot be imported as {path}" if name else f"{value!r}")


def load_yaml(file: str) -> DictConfig:
    """Read a config from YAML; Python tags are accepted only for the packages in :data:`ALLOWED`.

    Raises:
        yaml.YAMLError: the file is not YAML, or holds another Python object.
    """
    with PathManager.open(file) as content:
        return OmegaConf.create(yaml.load(content, _Loader), flags={"allow_objects": True})


class _Loader(yaml.SafeLoader):
    """Read YAML with the few Python objects that detectron2's LazyConfig.save writes."""

    def read_tuple(self, node: yaml.SequenceNode) -> tuple:
        """Read ``!!python/tuple``."""
        return tuple(self.construct_sequence(node, deep=True))

    def read_name(self, path: str, node: yaml.Node) -> Any:
        """Read a class or function, ``!!python/name:path``."""
        if not any(path == name or path.startswith(f"{name}.") for name in ALLOWED):
            raise yaml.constructor.ConstructorError(
                None, None, f"the Python object {path} is not allowed in a config", node.start_mark
            )
        return locate(path)

    def read_instance(self, path: str, node: yaml.Node) -> Any:
        """Read a dataclass such as ShapeSpec, ``!!python/object:path``."""
        kind = self.read_name(path, node)
        if not dataclasses.is_dataclass(kind) or not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(
                None, None, f"a {path} is not allowed in a config", node.start_mark
            )
        fields = {str(name): value for name, value in self.construct_mapping(node, deep=True).items()}
        return kind(**fields)  # type: ignore[operator]


_PYTHON = "tag:yaml.org,2002:python/"
_Loader.add_constructor(f"{_PYTHON}tuple", _Loader.read_tuple)
_Loader.add_multi_constructor(f"{_PYTHON}name:", _Loader.read_name)
_Loader.add_multi_constructor(f"{_PYTHON}object:", _Loader.read_instance)
