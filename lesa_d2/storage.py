"""Write files as a whole or not at all, so that a reader finds the old content or the new one at any moment.

A file is written under another name in its folder, brought to the disk, and renamed, which is one step for the file
system.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNFINISHED = ".unfinished-"
"""How the names of files begin that are being written; a process that is killed leaves one behind."""
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT}
_number = count()
_TORCH_WRITER = "inline_container"  # in what torch's writer raises where it opened the file itself


@contextmanager
def whole_file(file: str | os.PathLike) -> Iterator[Path]:
    """Give the path to write to, with the suffix of ``file``; it becomes ``file`` at the end, unless an error comes.

    Raises:
        StorageError: it cannot be written; ``file`` is as it was, and nothing unfinished is left.
    """
    file = Path(file)
    unfinished = file.with_name(f"{UNFINISHED}{os.getpid()}-{next(_number)}{file.suffix[-20:]}")
    try:
        yield unfinished
        _to_disk(unfinished)
        os.replace(unfinished, file)
        _to_disk(file.parent)
    except OSError as error:
        raise not_written(file, error) from error
    except RuntimeError as error:
        if _TORCH_WRITER not in str(error):
            raise
        raise not_written(file, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextmanager
def whole_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Give a folder to write to, for code that writes in place; its files move into ``folder`` at the end.

    Raises:
        StorageError: they cannot be written; those in ``folder`` are as they were, and nothing unfinished is left.
    """
    folder = Path(folder)
    unfinished = folder / f"{UNFINISHED}{os.getpid()}-{next(_number)}"
    try:
        with written(folder):
            unfinished.mkdir(parents=True)
            yield unfinished
            for file in unfinished.iterdir():
                _to_disk(file)
                os.replace(file, folder / file.name)
            _to_disk(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def written(file: str | os.PathLike) -> Iterator[None]:
    """Turn an error of the system, while open, into one that says what could not be written.

    Raises:
        StorageError: it names the file of the error, or else ``file``.
    """
    try:
        yield
    except OSError as error:
        raise not_written(error.filename or file, error) from error


def write_text(file: str | os.PathLike, text: str) -> None:
    """Write a text in UTF-8.

    Raises:
        StorageError: it cannot be written.
    """
    with whole_file(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def save_figure(figure: "Figure", file: str | os.PathLike, dpi: int) -> None:
    """Save a figure of Matplotlib in the format of the file's suffix.

    Raises:
        StorageError: it cannot be written.
    """
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, dpi=dpi)


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Remove what processes that were killed have left of files in ``folder``."""
    for path in Path(folder).glob(f"{UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink(missing_ok=True)


def not_written(file: str | os.PathLike, error: BaseException) -> StorageError:
    """Return the error that says what could not be written, why, and what to do."""
    cause = system_error(error)
    if cause is None:
        return StorageError(
            f"{file} cannot be written: {(str(error) or type(error).__name__).splitlines()[0]}"
        )
    advice = (
        "free space, or choose another folder" if cause.errno in _DISK_IS_FULL else "choose another folder"
    )
    return StorageError(f"{file} cannot be written: {cause.strerror}; {advice}")


def system_error(error: BaseException | None) -> OSError | None:
    """Return the error of the operating system behind an error; None where there is none."""
    while error is not None and not (isinstance(error, OSError) and error.errno):
        error = error.__cause__ or error.__context__
    return error


def _to_disk(path: Path) -> None:
    """Have the system bring a file, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # of file systems that do not know it for folders
            raise
    finally:
        os.close(number)
