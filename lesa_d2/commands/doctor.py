"""``lesa doctor``: check the environment, a config, a data set and a checkpoint."""

from ..tools.doctor import main

__all__ = ["main"]
