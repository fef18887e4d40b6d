"""Find the COCO files of a folder, whatever they are called, and tell which part each is for."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .locate import is_file
from .part import Part
from .parts import part_of_file

ACCEPTED = """\
accepted: JSON files in COCO's format, in the folder, in annotations/ or beside the pictures of each part. Names of
files or folders with train, val (valid, validation) and test tell the parts; a single file is split by a seed. The
pictures may lie anywhere below the folder."""

_PLACES = ("*.json", "*/*.json", "*/*/*.json")
_JUDGED = 20  # JSON files of a folder; where there are more, each is of one picture, in another format
_LARGE = 5_000_000  # bytes; a file of so many is not parsed only to see what it is
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
    for file in _candidates(root):
        by_part[part_of_file(file, root)].append(file)
    chosen = {part: _choose(files, part) for part, files in by_part.items()}
    several = {part: files for part, files in chosen.items() if len(files) > 1}
    parts = {part: Part(files[0], root, part) for part, files in chosen.items() if len(files) == 1}
    whole, train = parts.pop(None, None), parts.get("train")
    needed = {part for part in several if part is not None or not (train or "train" in several)}
    if needed:
        return Layout({}, tuple(_several(part, several[part], root) for part in sorted(needed, key=str)))
    if train is None and whole is None:
        return Layout({}, (_no_training(parts, root),))
    named = {part: found for part, found in parts.items() if part is not None}
    if train is None and whole is not None and "val" not in named:
        return Layout({"train": whole, **named})
    if train is None:
        return Layout({}, (_unclear(whole, parts, root),))
    if "val" not in named and "test" in named:
        return Layout({**named, "val": named["test"]}, remarks=(_TEST_VALIDATES,))
    return Layout(named)


_TEST_VALIDATES = "There is no part for validation: the one for test is used for it."


def _candidates(root: Path) -> list[Path]:
    """Return the JSON files near the top, without those of one picture each."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in sorted({file for place in _PLACES for file in root.glob(place)}):
        is_hidden = any(name.startswith(".") for name in file.relative_to(root).parts)
        if not is_hidden and is_file(file):
            by_folder[file.parent].append(file)
    few = [file for files in by_folder.values() for file in _without_labels(files)]
    return [file for file in few if not file.name.startswith(_OTHERS)] or few


def _without_labels(files: list[Path]) -> list[Path]:
    if len(files) <= _JUDGED:
        return files
    return files if any(map(looks_like_coco, files[:_JUDGED])) else []


def _choose(files: list[Path], part: str | None) -> list[Path]:
    """Return the files that can be the one of a part."""
    if len(files) == 1 and part is not None and not is_labelme(files[0]):
        return files  # whatever is wrong with it is said by the check
    good = [file for file in files if looks_like_coco(file)]
    named = [file for file in good if file.name.startswith(("instances", "_annotations.coco"))]
    return named if len(named) == 1 else good


def looks_like_coco(file: Path) -> bool:
    """Tell whether a JSON file has any of COCO's lists, or cannot be read, which the check will say."""
    keys = _keys(file)
    return keys is None or not keys.isdisjoint({"images", "annotations"})


def is_labelme(file: Path) -> bool:
    """Tell whether a JSON file has the shapes of one picture, as LabelMe writes them."""
    return {"shapes", "imagePath"} <= (_keys(file) or set())


def _keys(file: Path) -> set[str] | None:
    """Return the names at the top of a JSON file; None for a large file or one that cannot be read."""
    state = file.stat()
    return _read_keys(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _read_keys(file: Path, modified: int, size: int) -> set[str] | None:
    if size > _LARGE:
        return None
    try:
        data = json.loads(file.read_bytes())
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


def _no_training(parts: dict, root: Path) -> str:
    if parts:
        found = _named((part.file for part in parts.values()), root)
        return (
            f"no file for training beside {found}. Add train.json, or, to split that file by a seed, give it a name "
            "without a part, such as annotations.json, in a folder without one."
        )
    dangling = [
        file for file in sorted(root.glob("*.json")) + sorted(root.glob("*/*.json")) if not is_file(file)
    ]
    if dangling:
        return f"no JSON file in COCO's format; not a file that can be read: {_named(dangling, root)}"
    return "no JSON file in COCO's format, that is, with lists of images, annotations and categories"


def _unclear(whole: Part | None, parts: dict, root: Path) -> str:
    files = _named((part.file for part in (whole, *parts.values()) if part), root)
    return f"no file is clearly for training: {files}. Call the one for training train.json."


def _contents(root: Path, most: int = 20) -> str:
    """List the folders and JSON files, two levels deep, for these decide about a layout."""
    paths = sorted({*root.glob("*"), *root.glob("*/*.json")})
    telling = [path for path in paths if path.is_dir() or path.suffix == ".json"]
    shown = [f"{path.relative_to(root)}{'/' if path.is_dir() else ''}" for path in telling[:most]]
    if len(telling) > most:
        shown.append(f"{len(telling) - most} more folders and JSON files")
    if others := len(paths) - len(telling):
        shown.append(f"{others} other file{'s' if others > 1 else ''}")
    return ", ".join(shown) or "nothing, the folder is empty"
