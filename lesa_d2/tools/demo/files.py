"""Names of pictures: of those that are written, and those that are shown."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import LesaError, listed

WRITTEN = (".jpg", ".jpeg", ".png")  # other formats become JPEG


def output_names(files: Sequence[Path]) -> dict[Path, str]:
    """The name of each file's picture: its own, numbered where that is taken."""
    found: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        name = file.name if file.suffix.lower() in WRITTEN else f"{file.name}.jpg"
        numbers = itertools.count(2)
        found[file] = name
        while found[file].lower() in taken:  # some file systems take both cases for one
            found[file] = f"{next(numbers)}_{name}"
        taken.add(found[file].lower())
    return found


def keep_originals(files: Sequence[Path], folder: Path, names: Iterable[str]) -> None:
    """LesaError if one of ``names``, written into ``folder``, would replace one of the ``files``."""
    originals = {file.resolve() for file in files}
    lost = [name for name in names if (folder / name).resolve() in originals]
    if lost:
        raise LesaError(
            f"--output {folder} is where the input is: {listed(lost)} would be overwritten; "
            "give another folder"
        )


def short_names(files: Sequence[Path]) -> dict[Path, str]:
    """Each file's path below the folder that all of them are in."""
    absolute = {file: file.resolve() for file in files}
    common = os.path.commonpath([path.parent for path in absolute.values()])
    return {file: path.relative_to(common).as_posix() for file, path in absolute.items()}
