"""Find the COCO files of a folder, whatever they are called, and tell which part each is for."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..files import find_files
from .locate import is_file
from .part import Part
from .parts import part_of_file

ACCEPTED = """\
accepted: JSON files in COCO's format, in the folder, in annotations/ or beside the pictures of each part. Names of
files or folders with train, val (valid, validation) and test tell the parts; a single file is split by a seed. The
pictures may lie anywhere below the folder."""

_JUDGED = 20  # JSON files of a folder; where there are more, each is of one picture, in another format
_LARGE = 5_000_000  # bytes; a file of so many is not parsed only to see what it is
_TELLING = (".json", ".yaml", ".yml", ".xml", ".csv")  # suffixes of files that decide about a format
_OTHERS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")  # of COCO's own downloads


@dataclass(frozen=True)
class Layout:
    """Say which files a folder has for each part.

    Attributes:
        parts: by "train", "val", "test"; "train" alone where its pictures are to be split by a seed.
        what_is_wrong: why the folder cannot be used; empty if it can.
        remarks: sentences about what was assumed.
    """

    parts: dict[str, Part]
    what_is_wrong: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def find_layout(root: Path) -> Layout:
    """Find the files for training, validation and test below a folder."""
    by_part: dict[str | None, list[Path]] = defaultdict(list)
    candidates = _candidates(root)
    for file in candidates:
        by_part[part_of_file(file, root)].append(file)
    chosen = {part: found for part, files in by_part.items() if (found := _choose(files))}
    if wrong := _wrong(chosen, root):
        return Layout({}, (wrong,))
    named = {part: Part(files[0], root, part) for part, files in chosen.items() if part is not None}
    remarks = []
    if "train" not in named:
        named = {"train": Part(chosen[None][0], root, None), **named}
    elif None in chosen:
        remarks.append(f"not used, because the names tell no part: {_named(chosen[None], root)}.")
    if "val" not in named and "test" in named and named["train"].name:
        named["val"] = named["test"]
        remarks.append("There is no part for validation: the one for test is used for it.")
    return Layout(named, remarks=tuple(remarks))


def _candidates(root: Path) -> list[Path]:
    """Return the JSON files near the top, without those of one picture each."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in find_files(root, ".json"):
        by_folder[file.parent].append(file)
    few = [file for files in by_folder.values() for file in _without_labels(files)]
    return [file for file in few if not file.name.startswith(_OTHERS)] or few


def _without_labels(files: list[Path]) -> list[Path]:
    if len(files) <= _JUDGED:
        return files
    return files if any(map(looks_like_coco, files[:_JUDGED])) else []


def _choose(files: list[Path]) -> list[Path]:
    """Return the files that can be the one of a part; of a file that cannot be parsed the check will say so."""
    good = [file for file in files if looks_like_coco(file)]
    if not good and not any(map(is_labelme, files)):
        good = [file for file in files if _keys(file) is None]
    named = [file for file in good if file.name.startswith(("instances", "_annotations.coco"))]
    return named if len(named) == 1 else good


def _wrong(chosen: dict[str | None, list[Path]], root: Path) -> str:
    """Say why the files cannot be used; nothing if they can."""
    for part, file in _unreadable(root):
        if part is not None and part not in chosen:
            return f"{file.relative_to(root)} cannot be read: a link to nothing, or no file. Replace or remove it."
    needed = [part for part in chosen if part is not None or "train" not in chosen]
    for part in needed:
        if len(chosen[part]) > 1:
            return _several(part, chosen[part], root)
    if "train" in chosen or (None in chosen and "val" not in chosen):
        return ""
    files = [file for found in chosen.values() for file in found]
    if None in chosen:
        return (
            f"no file is clearly for training: {_named(files, root)}. Call the one for training train.json."
        )
    return _no_training(files, root)


def _unreadable(root: Path) -> Iterator[tuple[str | None, Path]]:
    """Yield what is called a JSON file or a part, but cannot be read: links to nothing, pipes, folders."""
    entries = list(os.scandir(root))
    for folder in [entry for entry in entries if entry.is_dir()]:
        entries += os.scandir(folder)
    for entry in sorted(entries, key=lambda entry: entry.path):
        path = Path(entry.path) if entry.is_symlink() or entry.name.lower().endswith(".json") else None
        is_gone = path and not path.exists()
        if path and (is_gone or (path.suffix.lower() == ".json" and not is_file(path))):
            yield part_of_file(path, root), path


def looks_like_coco(file: Path) -> bool:
    """Tell whether a JSON file has any of COCO's lists."""
    return not (_keys(file) or set()).isdisjoint({"images", "annotations"})


def is_labelme(file: Path) -> bool:
    """Tell whether a JSON file has the shapes of one picture, as LabelMe writes them."""
    return {"shapes", "imagePath"} <= (_keys(file) or set())


def is_broken(file: Path) -> bool:
    """Tell whether a JSON file cannot be parsed."""
    return _keys(file) is None


def _keys(file: Path) -> set[str] | None:
    """Return the names at the top of a JSON file; None for one that cannot be parsed.

    Of a large file it is what names stand anywhere in it.
    """
    state = file.stat()
    return _read_keys(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _read_keys(file: Path, modified: int, size: int) -> set[str] | None:
    content = file.read_bytes()
    if size > _LARGE:
        names = ("images", "annotations", "shapes", "imagePath")
        return {name for name in names if f'"{name}"'.encode() in content}
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return set(data) if isinstance(data, dict) else set()


# ---------------------------------------------------------------------------------------- what is wrong


def explain_layout(root: Path) -> str:
    """Say what is in a folder that cannot be used, what is wrong, and what is accepted."""
    return "\n".join([f"found: {_contents(root)}", *find_layout(root).what_is_wrong, ACCEPTED])


def _named(files: Iterable[Path], root: Path) -> str:
    return ", ".join(str(file.relative_to(root)) for file in files)


def _several(part: str | None, files: list[Path], root: Path) -> str:
    if part is None:
        return (
            f"{len(files)} files in COCO's format, whose names do not say their parts: {_named(files, root)}. Name "
            "them train.json and val.json, or keep one, which is split by a seed."
        )
    return f"{len(files)} files for {part}: {_named(files, root)}. Keep one, or move the others out of the folder."


def _no_training(files: list[Path], root: Path) -> str:
    if files:
        return (
            f"no file for training beside {_named(files, root)}. Add train.json, or, to split that file by a seed, "
            "give it a name without a part, such as annotations.json, in a folder without one."
        )
    if broken := [path for _, path in _unreadable(root)]:
        return f"no JSON file in COCO's format; not a file that can be read: {_named(broken, root)}"
    return "no JSON file in COCO's format, that is, with lists of images, annotations and categories"


def _contents(root: Path, most: int = 20) -> str:
    """List the folders and JSON files, two levels deep, for these decide about a layout."""
    paths = sorted({*root.glob("*"), *root.glob("*/*.json")})
    telling = [path for path in paths if path.is_dir() or path.suffix.lower() in _TELLING]
    shown = [f"{path.relative_to(root)}{'/' if path.is_dir() else ''}" for path in telling[:most]]
    if len(telling) > most:
        shown.append(f"{len(telling) - most} more folders and JSON files")
    if others := len(paths) - len(telling):
        shown.append(f"{others} other file{'s' if others > 1 else ''}")
    return ", ".join(shown) or "nothing, the folder is empty"
