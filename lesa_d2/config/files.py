"""The shipped configs by name, in a checkout of the repository and in an installed wheel."""

import difflib
from pathlib import Path

from ..errors import ConfigError

SUFFIXES = (".py", ".yaml")


def configs_folder() -> Path:
    """Beside the package's modules, where a wheel puts it, else the repository's ``configs/``."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_files() -> dict[str, Path]:
    """File of every config by name: the file's stem, behind ``yacs/`` for those of yacs."""
    folder = configs_folder()
    files = [*sorted(folder.glob("*.py")), *sorted(folder.glob("yacs/*.yaml"))]
    return {_without_suffix(file.relative_to(folder).as_posix()): file for file in files}


def find_config(name: str) -> Path:
    """The file of the config ``name``, which may end in .py or .yaml.

    Raises:
        ConfigError: there is no such config, which names the nearest; or the name is no text.
    """
    if not isinstance(name, str):
        raise ConfigError(
            f"expected the name of a config, such as 'mask_rcnn_lesa_r50', got {name!r}; "
            "python -m lesa_d2.model_zoo lists the names"
        )
    files = config_files()
    file = files.get(_without_suffix(name))
    if file is None:
        raise ConfigError(f"no config is named {name!r}; {_nearest(name, list(files))}")
    return file


def _without_suffix(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def _nearest(name: str, names: list[str]) -> str:
    wanted = _without_suffix(name).removeprefix("configs/")
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return "python -m lesa_d2.model_zoo lists the names"
