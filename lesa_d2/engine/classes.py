"""Comparison of the number of classes of a config with that of its data."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError, listed


def class_count(cfg: DictConfig, key: str, classes: Sequence[str], data: str) -> None:
    """Check that ``key`` of a config is the number of ``classes``; ``data`` is the name of the data in messages.

    Raises:
        ConfigError: the number is another; the message shows both.
    """
    expected = OmegaConf.select(cfg, key)
    if expected != len(classes):
        raise ConfigError(
            f"wrong number of classes: {key}={expected}, but {data} has {len(classes)} "
            f"({listed(list(classes), 10)}); set {key}={len(classes)}"
        )


def set_class_count(
    cfg: DictConfig, key: str, classes: Sequence[str], data: str, own: int | None, notes: list[str]
) -> None:
    """Set ``key``, in place, to the number of ``classes`` of the ``data`` that replace the config's own.

    If the config's number is ``own``, the number of classes of its own data, it is replaced together with these data.
    Any other number is a choice of the user and is not replaced.

    Raises:
        ConfigError: the config's number is neither that of its own data nor that of the new data; the message
            shows both.
    """
    value = OmegaConf.select(cfg, key)
    if value != own:
        class_count(cfg, key, classes, data)
    if value != len(classes):
        OmegaConf.update(cfg, key, len(classes))
        notes.append(
            f"{key}={len(classes)}, the classes of {data}, instead of the {value} of the config's own data."
        )
