"""Find pictures that are copies of one another."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable

from ..progress import progress


def equal_files(files: Iterable[str]) -> dict[str, str]:
    """Return a key for each file that has the same content as another one; files that cannot be read have none.

    Only files of the same length are read.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for file in dict.fromkeys(files):
        if os.path.isfile(file):
            by_size[os.path.getsize(file)].append(file)
    alike = [file for size, same in by_size.items() if size and len(same) > 1 for file in same]
    by_content: dict[str, list[str]] = defaultdict(list)
    for file in progress(alike, "Comparing images", len(alike)) if alike else ():
        by_content[_digest(file)].append(file)
    return {file: key for key, same in by_content.items() if len(same) > 1 for file in same}


def _digest(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()
