"""The folder of a run: its creation, and logging into it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..compat import fresh_logger, release_logger
from ..errors import ConfigError, LesaError

LOGGERS = ("fvcore", "detectron2", "lesa_d2")


def make_folder(folder: str | Path, name: str) -> Path:
    """Create ``folder``, which the user gave by the option ``name``, and return it.

    Raises:
        ConfigError: the folder cannot be created.
    """
    try:
        PathManager.mkdirs(str(folder))
    except OSError as error:
        raise ConfigError(f"{name}={str(folder)!r} cannot be made: {error}") from error
    if not PathManager.isdir(str(folder)):  # a file of that name raises no error
        raise ConfigError(f"{name}={str(folder)!r} cannot be made: it is a file")
    return Path(folder)


@contextmanager
def logging_to(output_dir: str) -> Iterator[None]:
    """Log, while open, to the console and to ``log.txt`` in the output folder, which is created."""
    make_folder(output_dir, "train.output_dir")
    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addFilter(_is_unexpected)
    try:
        for name in LOGGERS:
            fresh_logger(name, output_dir, comm.get_rank())
        yield
    finally:
        loop.removeFilter(_is_unexpected)
        for name in LOGGERS:
            release_logger(name)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Tell whether a log record is not about an error of the user, for which a traceback is of no use."""
    return not (record.exc_info and isinstance(record.exc_info[1], LesaError))
