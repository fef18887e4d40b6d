"""Names of pictures: of those that are written, and those that are shown."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

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


def short_names(files: Sequence[Path]) -> dict[Path, str]:
    """Each file's path below the folder that all of them are in."""
    absolute = {file: file.resolve() for file in files}
    common = os.path.commonpath([path.parent for path in absolute.values()])
    return {file: path.relative_to(common).as_posix() for file, path in absolute.items()}
