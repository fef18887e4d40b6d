"""Write generated data to disk once, in one step, and recognise it later."""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DatasetError

Info = dict[str, Any]
"""What determines the content of a generated folder, as JSON."""


def generate_once(
    directory: str | Path, info: Info, write: Callable[[Path], None], read_info: Callable[[Path], Any]
) -> Path:
    """Make ``directory`` with ``write``, unless it already is what ``info`` describes, and return it.

    The folder appears in one step when all of it is written, so an interrupted or concurrent run never leaves
    half a set behind.

    Args:
        directory: the folder to make.
        info: describes the content.
        write: fills an empty folder.
        read_info: returns the info that a folder holds, or anything else if it holds none.

    Raises:
        DatasetError: the folder holds something else.
    """
    directory = Path(directory)
    if _holds(directory, info, read_info):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = directory.parent / f".{directory.name}.{uuid.uuid4().hex}"
    try:
        draft.mkdir()
        write(draft)
        try:
            draft.rename(directory)
        except OSError:
            # Another process was faster, and wrote the same set; _holds checks that.
            if not _holds(directory, info, read_info):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return directory


def _holds(directory: Path, info: Info, read_info: Callable[[Path], Any]) -> bool:
    """Tell whether ``directory`` already is the set that ``info`` describes; other content is an error."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    found = read_info(directory)
    if found != info:
        raise DatasetError(
            f"shapes: {directory} holds something else.\n  expected: {info}\n  found: {found}\n"
            "Remove that folder, or choose another one."
        )
    return True
