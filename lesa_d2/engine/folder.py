"""The folder of a run: its creation, and logging into it."""

import logging
import sys
import traceback
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
    """Log, while open, to the console and to ``log.txt`` in the output folder, which is created.

    Every other process writes ``log.txt.rankR``.  An error that ends the run is written there, too.
    """
    make_folder(output_dir, "train.output_dir")
    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addFilter(_is_no_error)
    try:
        for name in LOGGERS:
            fresh_logger(name, output_dir, comm.get_rank())
        yield
    except Exception as error:
        _log_to_file(error)
        raise
    finally:
        loop.removeFilter(_is_no_error)
        for name in LOGGERS:
            release_logger(name)


def _log_to_file(error: Exception) -> None:
    """Write an error with the rank into the log of this process; the console gets it from the command."""
    where = f"[rank {comm.get_rank()}] " if comm.get_world_size() > 1 else ""
    text = str(error) if isinstance(error, LesaError) else traceback.format_exc()
    record = logging.LogRecord("lesa_d2", logging.ERROR, __file__, 0, f"{where}{text}", None, None)
    for handler in logging.getLogger("lesa_d2").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream not in (sys.stdout, sys.stderr):
            handler.handle(record)


def _is_no_error(record: logging.LogRecord) -> bool:
    """Tell whether a log record is not the traceback of the error that ends the run, which is written once."""
    return not record.exc_info
