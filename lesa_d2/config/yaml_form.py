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

from ..errors import ConfigError
from ..trust import LOCATE, allowed, check_names

MOST_VALUES = 100_000
"""A config has some hundred values; aliases of aliases make a small file grow without end."""
RETINANET_SIZES = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
"""The Python in detectron2's ``Base-RetinaNet.yaml``."""


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
    return {"name": _path(value), "_target_": LOCATE}


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
    """Read a LazyConfig from YAML.

    Raises:
        ConfigError: see :func:`read_mapping`.
    """
    return OmegaConf.create(read_mapping(file), flags={"allow_objects": True})


def read_mapping(file: str) -> dict[str, Any]:
    """Return the content of a YAML config of either kind, without running anything of it.

    Beyond plain YAML there may be what detectron2 writes: tuples, names of classes and functions, ShapeSpec and
    ``functools.partial``.

    Raises:
        ConfigError: the file cannot be read, is not such YAML, is no mapping, grows too large by its aliases, or names
            something that :func:`lesa_d2.trust.allowed` refuses.
    """
    try:
        with PathManager.open(file) as content:
            mapping = yaml.load(content, _Loader)
        if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in mapping):
            state = "it is empty" if mapping is None else "it is no mapping from names"
            raise ConfigError(f"{state}; a config is one, such as 'train: {{max_iter: 9}}'")
        if _exceeds(mapping, MOST_VALUES):
            raise ConfigError(f"with its aliases it has more than {MOST_VALUES:,} values")
        check_names(mapping)
    except Exception as error:  # values can be wrong in many ways, such as the date 2024-99-99
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(f"config file {file!r} cannot be loaded: {kind}{error}") from error
    return mapping


def _exceeds(content: Any, most: int) -> bool:
    """Tell whether dicts and lists hold more than ``most`` values; one that holds itself has no end of them."""
    waiting, count = [content], 0
    while waiting and count <= most:
        value = waiting.pop()
        inside = (
            value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        )
        waiting += inside
        count += 1
    return bool(waiting)


class _Loader(yaml.SafeLoader):
    """Read YAML with the few Python objects that detectron2's LazyConfig.save writes."""

    def read_tuple(self, node: yaml.SequenceNode) -> tuple:
        """Read ``!!python/tuple``."""
        return tuple(self.construct_sequence(node, deep=True))

    def read_name(self, path: str, node: yaml.Node) -> Any:
        """Read a class or function, ``!!python/name:path``."""
        return allowed(path)

    def read_instance(self, path: str, node: yaml.Node) -> Any:
        """Read a dataclass such as ShapeSpec, ``!!python/object:path``."""
        kind = allowed(path)
        if not dataclasses.is_dataclass(kind) or not isinstance(node, yaml.MappingNode):
            raise self._refused(node)
        fields = {str(name): value for name, value in self.construct_mapping(node, deep=True).items()}
        check_names(fields)
        return kind(**fields)  # type: ignore[operator]

    def read_partial(self, node: yaml.MappingNode) -> functools.partial:
        """Read ``!!python/object/apply:functools.partial``: the function, and its arguments as ``state``."""
        if not isinstance(node, yaml.MappingNode):
            raise self._refused(node)
        content = self.construct_mapping(node, deep=True)
        function, arguments, keywords, _ = content.get("state") or (None, (), {}, None)
        # Only a name that is allowed makes a function, and which argument one without a name is cannot be seen.
        if not callable(function) or arguments or not isinstance(keywords, dict):
            raise self._refused(node)
        check_names({"_target_": function, **keywords})
        return functools.partial(function, **keywords)

    def read_sizes(self, node: yaml.Node) -> list:
        """Read the one expression in detectron2's own configs, which is not evaluated."""
        if not isinstance(node, yaml.SequenceNode) or self.construct_sequence(node) != [RETINANET_SIZES]:
            raise self._refused(node)
        return [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]

    @staticmethod
    def _refused(node: yaml.Node) -> yaml.YAMLError:
        return yaml.constructor.ConstructorError(
            None, None, f"a {node.tag.removeprefix(_PYTHON)} is not allowed in a config", node.start_mark
        )


_PYTHON = "tag:yaml.org,2002:python/"
_Loader.add_constructor(f"{_PYTHON}tuple", _Loader.read_tuple)
_Loader.add_constructor(f"{_PYTHON}object/apply:functools.partial", _Loader.read_partial)
_Loader.add_constructor(f"{_PYTHON}object/apply:eval", _Loader.read_sizes)
_Loader.add_multi_constructor(f"{_PYTHON}name:", _Loader.read_name)
_Loader.add_multi_constructor(f"{_PYTHON}object:", _Loader.read_instance)
