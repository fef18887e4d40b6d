"""Files of results, one for each process, of which a process that is killed at any moment leaves whole lines.

A line is a JSON object: ``{"file", "width", "height", "results"}``, the latter as detectron2's
``instances_to_coco_json`` makes them, or ``{"file", "error"}`` for a picture that cannot be read.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeGuard

import orjson

from ...errors import LesaError
from ...storage import written

Place = tuple[Path, int]
"""A shard and the position of a line in it, in bytes."""


class Shard:
    """Append lines to the file of one process, which has it for itself until :meth:`close`.

    Raises:
        LesaError: another process writes to it.
        StorageError: it cannot be written.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"{rank}.jsonl"
        self._stream = _locked(self._path)

    def write(self, line: dict[str, Any]) -> None:
        """Write a line, which from then on survives the end of this process.

        Raises:
            StorageError: it cannot be written.
        """
        with written(self._path):
            self._stream.write(orjson.dumps(line) + b"\n")
            self._stream.flush()

    def close(self) -> None:
        """Give the file to others."""
        with written(self._path):  # what is still in memory
            self._stream.close()


class Shards:
    """Read the shards of a folder, after cutting off what was not written to its end.

    Args:
        folder: may not exist.

    Attributes:
        done: where the results of each file are.
        errors: by file, why it could not be read; of those that are not done.

    Raises:
        LesaError: another process writes to them.
        StorageError: they cannot be opened or cut off.
    """

    def __init__(self, folder: Path) -> None:
        self.done: dict[str, Place] = {}
        self.errors: dict[str, str] = {}
        for path in sorted(folder.glob("*.jsonl")):
            stream = _locked(path)
            with written(path), stream:
                for position, line in _whole_lines(stream):
                    self._add(line, (path, position))
        for file in self.done.keys() & self.errors.keys():
            del self.errors[file]

    def _add(self, line: dict[str, Any], place: Place) -> None:
        if "error" in line:
            self.errors[line["file"]] = line["error"]
        else:
            self.done.setdefault(line["file"], place)

    @contextmanager
    def reader(self) -> Iterator["Reader"]:
        """Give a function from a file to its line, while open."""
        reader = Reader(self.done)
        try:
            yield reader
        finally:
            reader.close()


class Reader:
    """Read the line of a file: ``reader(file)``."""

    def __init__(self, done: dict[str, Place]) -> None:
        self._done = done
        self._streams: dict[Path, IO[bytes]] = {}

    def __call__(self, file: str) -> dict[str, Any]:
        """Return the line of a file that is done."""
        path, position = self._done[file]
        if path not in self._streams:
            self._streams[path] = path.open("rb")
        stream = self._streams[path]
        stream.seek(position)
        return orjson.loads(stream.readline())

    def close(self) -> None:
        """Close the shards."""
        for stream in self._streams.values():
            stream.close()


def _whole_lines(stream: IO[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines of a shard with their positions; from the first that is not whole, the file is cut off."""
    stream.seek(0)
    position = 0
    for text in stream:
        try:
            line = orjson.loads(text) if text.endswith(b"\n") else None
        except ValueError:
            line = None
        if not _is_line(line):
            stream.truncate(position)
            return
        yield position, line
        position += len(text)


def _is_line(line: Any) -> TypeGuard[dict[str, Any]]:
    """Tell whether a value is the line of a picture, with all that is read from it."""
    if not isinstance(line, dict) or not isinstance(line.get("file"), str):
        return False
    if "error" in line:
        return isinstance(line["error"], str)
    results, has_size = line.get("results"), type(line.get("width")) is type(line.get("height")) is int
    return (
        has_size
        and isinstance(results, list)
        and all(isinstance(result, dict) and type(result.get("category_id")) is int for result in results)
    )


def _locked(path: Path) -> IO[bytes]:
    """Open a shard for reading and appending, for this process alone; it is free when the process ends."""
    with written(path):
        stream = path.open("a+b")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise LesaError(
            f"{path} is being written by another process: lesa predict runs twice with this --output, or processes "
            "of an earlier run have not ended; wait for them, end them, or give another --output"
        ) from error
    except OSError:  # a file system without locks
        os.stat(path)
    return stream
