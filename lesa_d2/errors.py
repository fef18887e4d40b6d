"""Errors that a user can mend: the command line shows their message alone, without a traceback."""

from collections.abc import Sequence

WITHOUT_SEMANTICS = "model.roi_heads.semantic_head=null model.roi_heads.semantic_pooler=null"
"""Overrides that take the semantic branch out of Hybrid Task Cascade: the way out that messages name."""


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


class ExportError(LesaError):
    """A model cannot be exported, or what was exported is not the model."""


def listed(names: Sequence[str], shown: int = 6) -> str:
    """The first names, for a message, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
