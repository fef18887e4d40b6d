"""Config files of both kinds: finding, reading, overriding and saving them."""

from .files import config_files, configs_folder, find_config
from .lazy import load_config
from .record import run_config, save_config
from .yacs import add_lesa_config, load_any_config, load_yacs_config

__all__ = [
    "add_lesa_config",
    "config_files",
    "configs_folder",
    "find_config",
    "load_any_config",
    "load_config",
    "load_yacs_config",
    "run_config",
    "save_config",
]
