"""The folder of a run: its creation, and logging into it."""

import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..checkpoint import last_checkpoint
from ..compat import fresh_logger, release_logger
from ..errors import ConfigError, LesaError, StoppedError, StorageError
from ..storage import not_written, remove_unfinished

OF_A_RUN = re.compile(
    r"model_(\d{7,}|final|best|ema_final)\.pth|last_checkpoint|model_best\.json|metrics\.json"
)
"""Files that a run does not share with another one in the same folder."""
_OF_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
LOGGERS = ("fvcore", "detectron2", "lesa_d2")


def make_folder(folder: str | Path, name: str) -> Path:
    """Create ``folder``, which the user gave by the option ``name``, and return it.

    Raises:
        ConfigError: the folder cannot be created.
    """
    try:
        str(folder).encode()
        PathManager.mkdirs(str(folder))
    except (OSError, ValueError) as error:  # the latter of a null byte, and of a name that is not UTF-8
        raise ConfigError(f"{name}={str(folder)!r} cannot be made: {error}") from error
    if not PathManager.isdir(str(folder)):  # a file of that name raises no error
        what = "a file" if PathManager.exists(str(folder)) else "a link to what does not exist"
        raise ConfigError(f"{name}={str(folder)!r} cannot be made: it is {what}")
    return Path(folder)


def check_unused(folder: str | Path) -> None:
    """Check that a new run in ``folder`` replaces nothing of another one.

    Raises:
        ConfigError: the folder holds weights.
    """
    found = sorted(file.name for file in Path(folder).glob("model_*.pth") if OF_A_RUN.fullmatch(file.name))
    if found:
        has_checkpoint = not {*found} <= {"model_best.pth", "model_ema_final.pth"}
        ways = "--resume continues it" if has_checkpoint else "no checkpoint of it is left to continue"
        raise ConfigError(
            f"{folder} holds a run ({found[-1]}): {ways}, --overwrite replaces it, and another train.output_dir "
            "keeps both"
        )


def remove_run(folder: str | Path) -> None:
    """Remove the checkpoints and records of an earlier run; ``log.txt`` stays."""
    for file in Path(folder).iterdir():
        if OF_A_RUN.fullmatch(file.name):
            file.unlink()
    remove_unfinished(folder)


@contextmanager
def explained(folder: str | Path) -> Iterator[None]:
    """Say, where a file cannot be written while open, what is still intact.

    Raises:
        StorageError: instead of an error of the disk, or where the folder is gone.
    """
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}. {_intact(folder)}") from error
    except OSError as error:
        is_inside = str(error.filename or "").startswith(os.path.join(folder, ""))
        if error.errno not in _OF_STORAGE and os.path.isdir(folder) and not is_inside:
            raise
        raise StorageError(f"{not_written(error.filename or folder, error)}. {_intact(folder)}") from error


def _intact(folder: str | Path) -> str:
    try:
        os.listdir(folder)
    except FileNotFoundError:
        return "The folder is gone"
    except OSError:
        return "What the folder holds cannot be read"
    last = last_checkpoint(folder)
    return f"The last checkpoint is {last}: --resume continues it" if last else "There is no checkpoint yet"


@contextmanager
def logging_to(output_dir: str) -> Iterator[None]:
    """Log, while open, to the console and to ``log.txt`` in the output folder.

    Every other process writes ``log.txt.rankR``.  An error that ends the run is written there, too.
    """
    try:
        for name in LOGGERS:
            fresh_logger(name, output_dir, comm.get_rank())
            for handler in _file_handlers(name):
                handler.handleError = _raise_error  # type: ignore[method-assign]
        yield
    except Exception as error:
        _log_error(error)
        raise
    finally:
        for name in LOGGERS:
            release_logger(name)


def log_to_file(text: str, level: int = logging.INFO) -> None:
    """Write a text into the log of this process, and not to the console."""
    record = logging.LogRecord("lesa_d2", level, __file__, 0, text, None, None)
    for handler in _file_handlers("lesa_d2"):
        handler.handle(record)


def _log_error(error: Exception) -> None:
    """Write an error with the rank into the log of this process; the console gets it from the command."""
    where = f"[rank {comm.get_rank()}] " if comm.get_world_size() > 1 else ""
    text = str(error) if isinstance(error, LesaError | StoppedError) else traceback.format_exc()
    try:
        log_to_file(f"{where}{text}", logging.ERROR)
    except OSError:  # of the disk, which is the error that ends the run
        for handler in _file_handlers("lesa_d2"):
            with suppress(OSError):
                handler.stream.close()


def _file_handlers(name: str) -> list[logging.StreamHandler]:
    handlers = logging.getLogger(name).handlers
    return [
        handler
        for handler in handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream not in (sys.stdout, sys.stderr)
    ]


def _raise_error(record: logging.LogRecord) -> None:
    """End the run where its log cannot be written, instead of printing a traceback for every line."""
    raise
