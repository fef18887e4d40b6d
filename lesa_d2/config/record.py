"""The saved config of a run, with which the run can be resumed, evaluated and used for prediction.

A config that has a form without Python objects becomes ``config.yaml``.  For all others the source is kept:
``config.py`` reads the copies of its files in ``config_source/`` and applies what the data and the command line
changed.  Nothing is pickled.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from .lazy import config_sources, read_config
from .yaml_form import NoYamlFormError, plain, to_yaml

YAML_FILE, PYTHON_FILE = "config.yaml", "config.py"
SOURCES, MAIN, CHANGES = "config_source", "main.txt", "changes.yaml"

TEXT = '''"""The config of this run: its files as they were, and what the data and the command line changed."""

from lesa_d2.config.record import restored

globals().update(restored(__file__))
'''


@dataclass(frozen=True)
class Origin:
    """Hold where a config comes from: its file, and its content before any change."""

    file: str
    written: DictConfig


def save_config(cfg: DictConfig, folder: str | Path, origin: Origin | None = None) -> Path:
    """Write the config of a run into ``folder``; return the file that :func:`.load_config` reads.

    Raises:
        ConfigError: it has no form without Python objects, and is not from a .py file.
    """
    folder = Path(folder)
    try:
        text = to_yaml(cfg)
    except NoYamlFormError as error:
        if origin is None or not origin.file.endswith(".py"):
            raise ConfigError(
                f"the config cannot be saved: it holds {error}; keep it in a .py file"
            ) from None
        return _save_source(cfg, folder, origin)
    file = folder / YAML_FILE
    file.write_text(text, encoding="utf-8")
    return file


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
    changes = yaml.safe_dump(changed(origin.written, cfg))
    earlier = Path(origin.file).with_name(SOURCES)
    is_record = Path(origin.file).name == PYTHON_FILE and (earlier / MAIN).is_file()
    target = folder / SOURCES
    if is_record and earlier.resolve() != target.resolve():
        shutil.copytree(earlier, target, dirs_exist_ok=True)
    elif not is_record:
        _copy_sources(origin.file, target)
    if is_record:  # the changes are those since the original files
        changes = yaml.safe_dump(changed(read_config(_main(target)), cfg))
    (target / CHANGES).write_text(changes, encoding="utf-8")
    (folder / PYTHON_FILE).write_text(TEXT, encoding="utf-8")
    return folder / PYTHON_FILE


def _copy_sources(file: str, target: Path) -> None:
    """Copy a config file and the files that it imports relatively, and keep their paths relative to each other."""
    sources = {Path(path).resolve(): text for path, text in config_sources(file).items()}
    parents = [set(path.parents) for path in sources]
    root = max(set.intersection(*parents), key=lambda path: len(path.parts))
    for path, text in sources.items():
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    (target / MAIN).write_text(Path(file).resolve().relative_to(root).as_posix(), encoding="utf-8")


def _main(sources: Path) -> str:
    return str(sources / (sources / MAIN).read_text(encoding="utf-8"))


def restored(file: str) -> dict[str, Any]:
    """Return the sections of a run's config, for its ``config.py``."""
    sources = Path(file).with_name(SOURCES)
    cfg = read_config(_main(sources))
    for key, value in yaml.safe_load((sources / CHANGES).read_text(encoding="utf-8")).items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    return {str(name): cfg[name] for name in cfg}


def changed(before: DictConfig, after: DictConfig) -> dict[str, Any]:
    """Return the values of ``after`` that differ from ``before``, by key; values without a YAML form are left out."""
    first, second = (OmegaConf.to_container(cfg, resolve=False) for cfg in (before, after))
    return _changed(first, second, "")


def _changed(before: Any, after: Any, key: str) -> dict[str, Any]:
    if isinstance(before, dict) and isinstance(after, dict):
        differences: dict[str, Any] = {}
        for name, value in after.items():
            inner = f"{key}.{name}" if key else str(name)
            differences |= _changed(before[name], value, inner) if name in before else {inner: plain(value)}
        return differences
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return {k: v for i, (b, a) in pairs for k, v in _changed(b, a, f"{key}.{i}").items()}
    if before is after or before == after:
        return {}
    try:
        return {key: plain(after)}
    except (
        NoYamlFormError
    ):  # such a value is from the file: the command line and the data set plain values only
        return {}
