"""The saved config of a run, with which the run can be resumed, evaluated and used for prediction.

A config that has a form without Python objects, and names nothing that a YAML file may not name, becomes
``config.yaml``.  For all others the source is kept:
``config.py`` reads the copies of its files in ``config_source/`` and applies what the data and the command line
changed.  Nothing is pickled.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..layers.registry import OPERATORS
from ..storage import write_text
from ..trust import check_names
from .lazy import config_sources, lesa_backbones, read_config
from .yaml_form import NoYamlFormError, plain, to_yaml

YAML_FILE, PYTHON_FILE = "config.yaml", "config.py"
SOURCES, MAIN, CHANGES = "config_source", "main.txt", "changes.yaml"

TEXT = '''"""The config of this run: its files as they were, and what the data and the command line changed."""

from lesa_d2.config.record import restored

globals().update(restored(__file__))
'''


_ABSENT = object()


@dataclass(frozen=True)
class Origin:
    """Hold where a config comes from: its file, and its content before any change."""

    file: str
    written: DictConfig


def save_config(cfg: DictConfig, folder: str | Path, origin: Origin | None = None) -> Path:
    """Write the config of a run into ``folder``; return the file that :func:`.load_config` reads.

    Raises:
        ConfigError: it has no form without Python objects, and is not from a .py file; or ``folder`` holds a
            config.py of somebody else.
    """
    folder = Path(folder)
    has_source = origin is not None and origin.file.endswith(".py")
    try:
        text = to_yaml(cfg)
    except NoYamlFormError as error:
        if origin is None or not has_source:
            raise ConfigError(
                f"the config cannot be saved: it holds {error}; keep it in a .py file"
            ) from None
        return _save_source(cfg, folder, origin)
    if origin is not None and has_source and (_has_outside_operator(cfg) or not _is_trusted(cfg)):
        return _save_source(cfg, folder, origin)  # a program, which may import any module
    if _is_record(folder / PYTHON_FILE):  # of an earlier run
        (folder / PYTHON_FILE).unlink()
    file = folder / YAML_FILE
    write_text(file, text)
    return file


def _has_outside_operator(cfg: DictConfig) -> bool:
    """Tell whether a backbone has an operator that is registered by a module outside this package."""
    package = __name__.partition(".")[0]
    names = [node.get("operator") for node in lesa_backbones(cfg).values()]
    classes = [OPERATORS[name] for name in names if isinstance(name, str) and name in OPERATORS]
    return any(operator.__module__.partition(".")[0] != package for operator in classes)


def _is_trusted(cfg: DictConfig) -> bool:
    """Tell whether everything that a config names may stand in a YAML file."""
    try:
        check_names(plain(cfg))
    except ConfigError:
        return False
    return True


def _is_record(file: Path) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == TEXT


def run_config(folder: str | Path) -> Path:
    """Return the file that holds the config of the run in ``folder``.

    Raises:
        ConfigError: there is none.
    """
    for name in (YAML_FILE, PYTHON_FILE):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise ConfigError(f"{folder} holds neither {YAML_FILE} nor {PYTHON_FILE}: it is not the folder of a run")


def _save_source(cfg: DictConfig, folder: Path, origin: Origin) -> Path:
    file, target = folder / PYTHON_FILE, folder / SOURCES
    if file.is_file() and not _is_record(file):
        raise ConfigError(
            f"{file} is not the config of a run, and would be replaced: choose another train.output_dir"
        )
    earlier = Path(origin.file).with_name(SOURCES)
    is_record = _is_record(Path(origin.file)) and (earlier / MAIN).is_file()
    if not is_record:
        _copy_sources(origin.file, target)
    elif earlier.resolve() != target.resolve():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(earlier, target)
    # the changes of a record are those since the original files
    before = read_config(_main(target)) if is_record else origin.written
    write_text(target / CHANGES, yaml.safe_dump(changed(before, cfg)))
    write_text(file, TEXT)
    (folder / YAML_FILE).unlink(missing_ok=True)  # of an earlier run
    return file


def _copy_sources(file: str, target: Path) -> None:
    """Copy a config file and the files that it imports relatively, and keep their paths relative to each other."""
    sources = {Path(path).resolve(): text for path, text in config_sources(file).items()}
    parents = [set(path.parents) for path in sources]
    root = max(set.intersection(*parents), key=lambda path: len(path.parts))
    shutil.rmtree(target, ignore_errors=True)  # of an earlier run
    for path, text in sources.items():
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_text(copy, text)
    write_text(target / MAIN, Path(file).resolve().relative_to(root).as_posix())


def _main(sources: Path) -> str:
    return str(sources / (sources / MAIN).read_text(encoding="utf-8"))


def restored(file: str) -> dict[str, Any]:
    """Return the sections of a run's config, for its ``config.py``."""
    sources = Path(file).with_name(SOURCES)
    cfg = read_config(_main(sources))
    for change in yaml.safe_load((sources / CHANGES).read_text(encoding="utf-8")):
        *parents, name = change["key"]
        node: Any = cfg
        for parent in parents:
            node = node[parent]
        if "value" in change:
            node[name] = change["value"]
        else:
            del node[name]
    return {str(name): cfg[name] for name in cfg}


def changed_since(folder: str | Path, cfg: DictConfig) -> list[str]:
    """Return the settings of ``cfg`` that the ``config.yaml`` of the run in ``folder`` has otherwise or lacks.

    Each is ``key=value``, or ``key is gone``; none where one of the two configs has no YAML form, since a ``config.py``
    would have to be run.  The folder itself does not count: it may have been moved.

    Raises:
        ConfigError: the file cannot be read.
    """
    file = Path(folder) / YAML_FILE
    try:
        after = plain(cfg)
    except NoYamlFormError:
        return []
    if not file.is_file():
        return []
    found = []
    for change in _changed(plain(read_config(str(file))), after, []):
        key = ".".join(map(str, change["key"]))
        if key != "train.output_dir":
            found.append(f"{key}={change['value']}" if "value" in change else f"{key} is gone")
    return found


def changed(before: DictConfig, after: DictConfig) -> list[dict[str, Any]]:
    """Return what differs between two configs.

    Returns:
        For each difference its ``key``, the names and indices that lead to it, and the ``value`` of ``after``;
        without a value where ``after`` lacks the key.  Values without a YAML form are left out: they are from the
        file, as the command line and the data set plain values only.
    """
    first, second = (OmegaConf.to_container(cfg, resolve=False) for cfg in (before, after))
    return list(_changed(first, second, []))


def _changed(before: Any, after: Any, key: list[str | int]) -> Iterator[dict[str, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before:
            if name not in after:
                yield {"key": [*key, name]}
        for name, value in after.items():
            yield from _changed(before.get(name, _ABSENT), value, [*key, name])
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from _changed(*pair, [*key, index])
    elif before is not after and before != after:
        with contextlib.suppress(NoYamlFormError):
            is_target = key[-1:] == ["_target_"]
            yield {"key": key, "value": plain({"_target_": after})["_target_"] if is_target else plain(after)}
