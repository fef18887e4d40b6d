"""Write files as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(file: str | os.PathLike) -> Iterator[Path]:
    """Give the path to write to; it becomes ``file`` at the end, unless an error comes."""
    file = Path(file)
    unfinished = file.with_name(f".unfinished-{os.getpid()}-{file.name}")
    try:
        yield unfinished
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
