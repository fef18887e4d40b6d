"""What is known of weights by name: address, digest, results.

Two files of one format: ``catalog.json`` beside this module, whose results are published ones and whose
addresses are empty as long as nothing is published here, and ``catalog.json`` in the user's folder, which
adds entries and overrides single fields.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import CheckpointError
from .files import read

FILE = "catalog.json"
SHIPPED = Path(__file__).with_name(FILE)
PREFIX = "lesa://"  # of the addresses that this catalog resolves
NAME = re.compile(r"\w[\w.-]*(?<!\.pth)")
NAME_FORM = "letters, digits, '_', '-' and '.', and no .pth at its end"
CHUNK = 2**22
LARGE = 2**28  # bytes from which on a digest takes seconds


@dataclass(frozen=True)
class Entry:
    """Weights of one name; None is unknown.

    ``url`` is any address that detectron2's PathManager reads, ``sha256`` the file's digest in hex, ``size``
    in bytes, AP and top-1 in percent on COCO's and ImageNet's validation sets, ``source`` says whose results
    they are.
    """

    url: str | None = None
    sha256: str | None = None
    size: int | None = None
    box_ap: float | None = None
    mask_ap: float | None = None
    top1: float | None = None
    source: str | None = None


def _is_percent(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_address(value: Any) -> bool:
    """Whether weights can lie there; one of ours would lead back here."""
    return _is_text(value) and not value.startswith(PREFIX)


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "url": (_is_address, f"an address that does not start with {PREFIX}"),
    "sha256": (
        lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
        "64 lower-case hexadecimal digits",
    ),
    "size": (lambda value: type(value) is int and value > 0, "a number of bytes"),
    "box_ap": (_is_percent, "a percentage"),
    "mask_ap": (_is_percent, "a percentage"),
    "top1": (_is_percent, "a percentage"),
    "source": (_is_text, "a word"),
}


def read_catalog(folder: Path) -> dict[str, Entry]:
    """The shipped entries, overridden field by field by those of ``folder/catalog.json``, if there is one.

    Raises:
        CheckpointError: a file is no catalog; lists everything that is wrong with it.
    """
    catalog = {name: Entry(**fields) for name, fields in _read(SHIPPED).items()}
    for name, fields in own_entries(folder).items():
        catalog[name] = replace(catalog.get(name, Entry()), **fields)
    return catalog


def own_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """The known fields by name of ``folder/catalog.json``; empty where there is none."""
    file = folder / FILE
    return _read(file) if file.exists() else {}


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}. Mend it, or move it away") from error
    problems = _problems(loaded)
    if problems:
        raise CheckpointError(f"{file} is no catalog of weights:\n  " + "\n  ".join(problems))
    return {name: {k: v for k, v in fields.items() if v is not None} for name, fields in loaded.items()}


def _problems(loaded: Any) -> list[str]:
    if not isinstance(loaded, Mapping):
        return [f"expected an object that maps names to entries, got {type(loaded).__name__}"]
    found = []
    for name, fields in loaded.items():
        if not NAME.fullmatch(name):
            found.append(f"{name!r} is no name: expected {NAME_FORM}")
        if not isinstance(fields, Mapping):
            found.append(f"{name}: expected an object, got {type(fields).__name__}")
            continue
        for key, value in fields.items():
            test, wanted = FIELDS.get(key, (None, ""))
            if test is None:
                found.append(f"{name}: unknown field {key!r}; known are {', '.join(FIELDS)}")
            elif value is not None and not test(value):
                found.append(f"{name}: {key} must be {wanted} or null, got {value!r}")
    return found


def add_weights(name: str, source: Path, folder: Path, url: str | None = None, force: bool = False) -> Entry:
    """Copy a checkpoint into ``folder`` as ``NAME.pth`` and record its digest, size and ``url`` there.

    Args:
        name: without suffix; ``lesa://NAME.pth`` reads the copy.
        source: a file of plain tensors; the copy itself, to record a file that is there already.
        url: where others can download it; what was recorded of the same file before stays where it is None.
        force: replace other weights of this name.

    Raises:
        CheckpointError: a bad name or url, a file that cannot be read as weights, one that would be replaced,
            or a catalog in ``folder`` that cannot be read; nothing is copied then.
    """
    name = name.removesuffix(".pth")
    problems = _problems({name: {"url": url}})
    if problems:
        raise CheckpointError(f"weights {name!r} cannot be recorded: " + "; ".join(problems))
    entries = own_entries(folder)
    read(source)
    target = folder / f"{name}.pth"
    entry = Entry(url=url, sha256=sha256_of(source), size=source.stat().st_size)
    is_there = target.exists() and target.samefile(source)
    if target.exists() and not is_there and not force and sha256_of(target) != entry.sha256:
        raise CheckpointError(f"{target} holds other weights; choose another name, or --force to replace it")
    if not is_there:
        _write(target, lambda file: shutil.copyfile(source, file))
    known = entries.get(name, {})
    is_same = known.get("sha256") == entry.sha256
    entries[name] = (known if is_same else {}) | {k: v for k, v in asdict(entry).items() if v is not None}
    text = json.dumps(entries, indent=2) + "\n"
    _write(folder / FILE, lambda file: file.write_text(text, encoding="utf-8"))
    return Entry(**entries[name])


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file as a whole or not at all."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written: {error}") from error
    finally:
        with suppress(OSError):  # not there, or its folder is none: what matters has been raised above
            part.unlink()


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hex; with a progress bar for large files."""
    digest, size = hashlib.sha256(), file.stat().st_size
    with (
        open(file, "rb") as content,
        tqdm(
            total=size, unit="B", unit_scale=True, desc=f"SHA-256 of {file.name}", disable=size < LARGE
        ) as bar,
    ):
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


_verified: dict[tuple[str, int, int], str] = {}
"""Digests by path, time of modification and size: several readers of a process hash a file once."""


def known_sha256(file: Path) -> str:
    """:func:`sha256_of`, computed once in a process for a file that does not change."""
    state = file.stat()
    key = (str(file.resolve()), state.st_mtime_ns, state.st_size)
    if key not in _verified:
        _verified[key] = sha256_of(file)
    return _verified[key]
