"""Config files of either kind, for what takes both: predictor, demo."""

from collections.abc import Sequence
from typing import TypeAlias

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig

from ..config import add_lesa_config
from ..errors import ConfigError
from .overrides import load_config

AnyConfig: TypeAlias = DictConfig | CfgNode


def load_any_config(file: str, overrides: Sequence[str] = ()) -> AnyConfig:
    """A LazyConfig, or a yacs file with the keys of :func:`lesa_d2.config.add_lesa_config`.

    Args:
        file: .py, or .yaml: of yacs, or as a run saved it.
        overrides: ``key=value`` for either kind, such as ``MODEL.DEVICE=cpu`` for yacs.

    Raises:
        ConfigError: see :func:`load_config`; the same for yacs.
    """
    return _load_yacs(file, overrides) if is_yacs(file) else load_config(file, overrides)


def is_yacs(file: str) -> bool:
    """Whether ``file`` is YAML with the section MODEL, or built upon another such file."""
    if not file.endswith((".yaml", ".yml")) or not PathManager.isfile(file):
        return False
    try:
        with PathManager.open(file) as stream:
            content = yaml.unsafe_load(stream)  # as detectron2 does: saved LazyConfigs name Python objects
    except Exception:  # not YAML at all: load_config says so
        return False
    return isinstance(content, dict) and bool({"MODEL", "_BASE_"} & content.keys())


def _load_yacs(file: str, overrides: Sequence[str]) -> CfgNode:
    cfg = get_cfg()
    add_lesa_config(cfg)
    malformed = [override for override in overrides if "=" not in override]
    if malformed:
        raise ConfigError(f"overrides must be of the form KEY=VALUE, got {malformed}")
    try:
        cfg.merge_from_file(file)
        cfg.merge_from_list([part for override in overrides for part in override.split("=", 1)])
    except Exception as error:  # yacs raises many types
        raise ConfigError(
            f"yacs config {file!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return cfg
