"""Errors that a user can mend: the command line shows their message alone, without a traceback."""


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
