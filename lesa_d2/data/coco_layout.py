"""Where a COCO-format folder keeps its training and validation parts, and which classes it has."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager

from ..errors import DatasetError
from .problems import DatasetProblemsError, Problem

LAYOUTS = """\
  1. annotations/instances_train*.json and annotations/instances_val*.json,
     with image folders of the same suffix: train*/ and val*/ (as in COCO, e.g. train2017/)
  2. train/_annotations.coco.json and valid/_annotations.coco.json (or val/, or test/),
     with the images beside the JSON (as Roboflow exports)
  3. exactly one *.json with a folder images/, to be split into training and validation by a seed"""


@dataclass(frozen=True)
class SplitFiles:
    """One JSON file and the folder that its file names are relative to."""

    json_file: Path
    image_root: Path


@dataclass(frozen=True)
class Layout:
    """The parts of a folder. ``train == val`` means one JSON that is split by a seed."""

    directory: Path
    train: SplitFiles
    val: SplitFiles

    @property
    def needs_split(self) -> bool:
        return self.train == self.val

    @property
    def parts(self) -> list[SplitFiles]:
        return list(dict.fromkeys((self.train, self.val)))


@dataclass(frozen=True)
class Summary:
    """What registration must know of a JSON file, small enough to keep."""

    categories: dict[int, str]  # by ascending id
    supercategories: frozenset[str]
    used_categories: frozenset[int]
    image_ids: tuple[int | str, ...]
    evaluable: bool  # pycocotools can score against the file as it is
    digest: str


def find_layout(directory: str | Path) -> Layout:
    """Recognise how ``directory`` is laid out.

    Raises:
        DatasetError: no such folder, or none of the accepted layouts; says what was found instead.
    """
    root = Path(PathManager.get_local_path(str(directory)))
    if not root.is_dir():
        raise DatasetError(f"data set folder {directory} does not exist or is not a folder")
    for recognise in (_coco_layout, _roboflow_layout, _single_json_layout):
        layout = recognise(root)
        if layout:
            return layout
    raise DatasetError(
        f"{directory} is not laid out in a known way.\nfound: {_contents(root)}\naccepted:\n{LAYOUTS}"
    )


def category_names(layout: Layout) -> dict[int, str]:
    """Names by ascending category id, the same for training and validation.

    A root category (id 0, no annotation, supercategory of others), which Roboflow adds, is left out.

    Raises:
        DatasetProblemsError: an unreadable JSON file, categories that differ, a name that comes twice.
    """
    train, val = summarise(layout.train.json_file), summarise(layout.val.json_file)
    problems = [*_differences(layout, train, val), *_duplicate_names(layout, train)]
    if problems:
        raise DatasetProblemsError(str(layout.directory), problems)
    used = train.used_categories | val.used_categories
    is_root = 0 not in used and train.categories.get(0) in train.supercategories
    return {i: name for i, name in train.categories.items() if not (i == 0 and is_root)}


def read_coco(json_file: str | Path) -> dict[str, Any]:
    """Parse a COCO JSON file and check its outer structure.

    Raises:
        DatasetProblemsError: not JSON; images, annotations or categories are not lists; malformed categories.
    """
    try:
        with PathManager.open(str(json_file)) as file:
            data = json.load(file)
    except ValueError as error:
        mend = "Write the file again; it may have been cut off or be of another format."
        problem = Problem("unreadable JSON", str(json_file), str(error), mend)
        raise DatasetProblemsError(str(json_file), [problem]) from error
    problems = list(_structure(str(json_file), data))
    if problems:
        raise DatasetProblemsError(str(json_file), problems)
    return data


def summarise(json_file: Path) -> Summary:
    """The :class:`Summary` of a JSON file; read again only when the file has changed."""
    state = json_file.stat()
    return _summarise(json_file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)
def _summarise(json_file: Path, modified: int, size: int) -> Summary:
    data = read_coco(json_file)
    categories = sorted(data["categories"], key=lambda category: category["id"])
    annotations = data["annotations"]
    return Summary(
        categories={category["id"]: category["name"] for category in categories},
        supercategories=frozenset(c["supercategory"] for c in categories if c.get("supercategory")),
        used_categories=frozenset(i for a in annotations if isinstance(i := a.get("category_id"), int)),
        image_ids=tuple(i for image in data["images"] if isinstance(i := image.get("id"), int | str)),
        # Id 0 means "no match" to pycocotools: such an object would count as missed when found.
        evaluable="info" in data
        and all("area" in a and "iscrowd" in a and a.get("id", 0) != 0 for a in annotations),
        digest=hashlib.sha256(json_file.read_bytes()).hexdigest(),
    )


def _structure(file: str, data: Any) -> Iterator[Problem]:
    def wrong(what: str) -> Problem:
        mend = "A COCO file is one object with lists of objects: images, annotations and categories."
        return Problem("not a COCO file", file, what, mend)

    if not isinstance(data, dict):
        yield wrong(f"holds a {type(data).__name__}, not an object")
        return
    for key in ("images", "annotations", "categories"):
        value = data.get(key)
        if key not in data:
            yield wrong(f"{key!r} is missing")
        elif not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            yield wrong(f"{key!r} is not a list of objects")
        elif key == "categories":
            yield from _bad_categories(file, value)


def _bad_categories(file: str, categories: list[dict]) -> Iterator[Problem]:
    mend = "Every category needs an integer 'id' of its own and a 'name'."
    seen = set()
    for category in categories:
        category_id = category.get("id")
        if not isinstance(category_id, int) or not isinstance(category.get("name"), str):
            yield Problem("malformed category", file, f"got {category}", mend)
        elif category_id in seen:
            yield Problem("malformed category", file, f"id {category_id} comes twice", mend)
        else:
            seen.add(category_id)


def _differences(layout: Layout, train: Summary, val: Summary) -> list[Problem]:
    if train.categories == val.categories:
        return []
    what = f"training has {train.categories}, validation has {val.categories}"
    mend = "Give both files the same category ids and names."
    return [Problem("categories differ", str(layout.val.json_file), what, mend)]


def _duplicate_names(layout: Layout, train: Summary) -> list[Problem]:
    ids: dict[str, list[int]] = {}
    for category_id, name in train.categories.items():
        ids.setdefault(name, []).append(category_id)
    mend = "Merge these categories or rename one of them."
    return [
        Problem("duplicate class name", str(layout.train.json_file), f"{name!r} is category {same}", mend)
        for name, same in ids.items()
        if len(same) > 1
    ]


def _coco_layout(root: Path) -> Layout | None:
    parts = []
    for split in ("train", "val"):
        files = sorted((root / "annotations").glob(f"instances_{split}*.json"))
        if len(files) != 1:
            return None
        parts.append(SplitFiles(files[0], root / files[0].stem.removeprefix("instances_")))
    return Layout(root, *parts) if all(part.image_root.is_dir() for part in parts) else None


def _roboflow_layout(root: Path) -> Layout | None:
    def part(folder: str) -> SplitFiles:
        return SplitFiles(root / folder / "_annotations.coco.json", root / folder)

    found = [name for name in ("valid", "val", "test") if part(name).json_file.is_file()]
    if not found or not part("train").json_file.is_file():
        return None
    return Layout(root, part("train"), part(found[0]))


def _single_json_layout(root: Path) -> Layout | None:
    files = sorted(root.glob("*.json"))
    if len(files) != 1 or not (root / "images").is_dir():
        return None
    part = SplitFiles(files[0], root / "images")
    return Layout(root, part, part)


def _contents(root: Path, most: int = 20) -> str:
    """Folders and JSON files, two levels deep: what decides about a layout."""
    paths = sorted({*root.glob("*"), *root.glob("*/*.json")})
    telling = [f"{p.relative_to(root)}{'/' if p.is_dir() else ''}" for p in paths if _telling(p)]
    others = sum(not _telling(p) for p in paths)
    shown = telling[:most]
    if len(telling) > most:
        shown.append(f"{len(telling) - most} more folders and JSON files")
    if others:
        shown.append(f"{others} other file{'s' if others > 1 else ''}")
    return ", ".join(shown) or "nothing, the folder is empty"


def _telling(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".json"
