"""Names of the pictures that are written."""

import itertools
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
