"""Config files by name: our own, in a checkout of the repository or an installed wheel, and detectron2's."""

import contextlib
import difflib
from pathlib import Path

from detectron2 import model_zoo

from ..errors import ConfigError

SUFFIXES = (".py", ".yaml")


def configs_folder() -> Path:
    """Return the folder of our configs: in the package if a wheel is installed, else in the repository."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_files() -> dict[str, Path]:
    """Return the files of our configs by name: the file's stem, with ``yacs/`` before it for yacs configs."""
    folder = configs_folder()
    files = [*sorted(folder.glob("*.py")), *sorted(folder.glob("yacs/*.yaml"))]
    return {_without_suffix(file.relative_to(folder).as_posix()): file for file in files}


def find_config(name: str) -> Path:
    """Return the file of one of our configs or of detectron2's model zoo; ``name`` may end in .py or .yaml.

    Raises:
        ConfigError: there is no such config, and the message names the nearest one; or the name is not text.
    """
    if not isinstance(name, str):
        raise ConfigError(
            f"expected the name of a config, such as 'mask_rcnn_lesa_r50', got {name!r}; lesa zoo lists the names"
        )
    files = config_files()
    file = files.get(_without_suffix(name)) or _of_detectron2(name)
    if file is None:
        raise ConfigError(f"no config is named {name!r}; {_nearest(name, list(files))}")
    return file


def _of_detectron2(name: str) -> Path | None:
    """Return the file of a detectron2 config, such as ``new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ``, or None.

    Without a suffix in the name, a LazyConfig comes before a yacs config.
    """
    for suffix in SUFFIXES:
        if name == _without_suffix(name) or name.endswith(suffix):
            with contextlib.suppress(RuntimeError):  # there is none
                return Path(model_zoo.get_config_file(_without_suffix(name) + suffix))
    return None


def _without_suffix(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def _nearest(name: str, names: list[str]) -> str:
    wanted = _without_suffix(name).removeprefix("configs/")
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return "lesa zoo lists the names"
