"""Errors that a user can mend: the command line shows their message alone, without a traceback."""

from collections.abc import Sequence


class LesaError(ValueError):
    """Bad input; the message says what was expected, what came, and what to do."""


class ConfigError(LesaError):
    """A config file or an override cannot be used."""


class CheckpointError(LesaError):
    """A checkpoint is missing, damaged, or does not fit the model."""


class NonFiniteError(LesaError, FloatingPointError):
    """A loss became infinite or not a number."""


class DatasetError(LesaError):
    """A data set is missing or wrong."""


def listed(names: Sequence[str], shown: int = 6) -> str:
    """The first names, for a message, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
