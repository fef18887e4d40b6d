"""Names of the pictures that are written, and names under which pictures are shown."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import LesaError, listed

WRITTEN = (".jpg", ".jpeg", ".png")  # pictures of other formats are written as JPEG


def output_names(files: Sequence[Path]) -> dict[Path, str]:
    """Return the name under which each file's picture is written: its own, with a number if that is taken."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        name = file.name if file.suffix.lower() in WRITTEN else f"{file.name}.jpg"
        numbers = itertools.count(2)
        names[file] = name
        while names[file].lower() in taken:  # some file systems ignore case
            names[file] = f"{next(numbers)}_{name}"
        taken.add(names[file].lower())
    return names


def keep_originals(files: Sequence[Path], folder: Path, names: Iterable[str]) -> None:
    """Check that none of ``names``, written into ``folder``, replaces one of the ``files``.

    Raises:
        LesaError: a file would be overwritten.
    """
    originals = {file.resolve() for file in files}
    lost = [name for name in names if (folder / name).resolve() in originals]
    if lost:
        raise LesaError(
            f"--output {folder} is where the input is: {listed(lost)} would be overwritten; "
            "give another folder"
        )


def short_names(files: Sequence[Path]) -> dict[Path, str]:
    """Return the path of each file relative to the deepest folder that contains all of them."""
    absolute = {file: file.resolve() for file in files}
    common = os.path.commonpath([path.parent for path in absolute.values()])
    return {file: path.relative_to(common).as_posix() for file, path in absolute.items()}
