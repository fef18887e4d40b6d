"""Where a COCO-format folder keeps its training and validation parts, and which classes it has."""

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager

from ..errors import DatasetError
from .entries import is_annotation, is_id, is_image, is_int, is_object
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
    object_image_ids: frozenset[int | str]  # of images with an object that is not a crowd
    has_masks: bool
    has_bom: bool  # a byte order mark, which detectron2 and pycocotools cannot read
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
    missing = _missing(root)
    lines = [
        f"{directory} is not laid out in a known way.",
        f"found: {_contents(root)}",
        *([f"missing: {', '.join(missing)}"] if missing else []),
        f"accepted:\n{LAYOUTS}",
    ]
    raise DatasetError("\n".join(lines))


def category_names(layout: Layout) -> dict[int, str]:
    """Names by ascending category id, the same for training and validation.

    A root category (id 0, no annotation, supercategory of others), which Roboflow adds, is left out.

    Raises:
        DatasetProblemsError: an unreadable JSON file, categories that differ, a name that comes twice.
    """
    problems = category_problems(layout)
    if problems:
        raise DatasetProblemsError(str(layout.directory), problems)
    train, val = _summaries(layout)
    used = train.used_categories | val.used_categories
    is_root = 0 not in used and train.categories.get(0) in train.supercategories
    return {i: name for i, name in train.categories.items() if not (i == 0 and is_root)}


def read_coco(json_file: str | Path) -> dict[str, Any]:
    """Parse a COCO JSON file and check its outer structure.

    Raises:
        DatasetProblemsError: not JSON; images, annotations or categories are not lists; malformed categories.
    """
    try:
        # utf-8-sig: Windows tools begin a file with a byte order mark.
        with PathManager.open(str(json_file), encoding="utf-8-sig") as file:
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
    content = json_file.read_bytes()
    has_bom = content.startswith(codecs.BOM_UTF8)
    categories = sorted(data["categories"], key=lambda category: category["id"])
    annotations = data["annotations"]
    return Summary(
        categories={category["id"]: category["name"] for category in categories},
        supercategories=frozenset(c["supercategory"] for c in categories if c.get("supercategory")),
        used_categories=frozenset(i for a in annotations if is_int(i := a.get("category_id"))),
        image_ids=tuple(i for image in data["images"] if is_id(i := image.get("id"))),
        object_image_ids=_object_image_ids(data),
        has_masks=any(a.get("segmentation") for a in annotations if is_annotation(a)),
        has_bom=has_bom,
        evaluable="info" in data and not has_bom and all(map(_is_evaluable, annotations)),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _object_image_ids(data: dict[str, Any]) -> frozenset[int | str]:
    images = {image["id"] for image in data["images"] if is_image(image)}
    return frozenset(images & {a["image_id"] for a in data["annotations"] if is_object(a)})


def _is_evaluable(annotation: dict) -> bool:
    # pycocotools keeps ids in arrays of numbers, where 0 means "no match": the object would count as missed.
    has_id = is_int(annotation.get("id")) and annotation["id"] != 0
    return has_id and "area" in annotation and "iscrowd" in annotation


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
        if not is_int(category_id) or not isinstance(category.get("name"), str):
            yield Problem("malformed category", file, f"got {category}", mend)
        elif category_id in seen:
            yield Problem("malformed category", file, f"id {category_id} comes twice", mend)
        else:
            seen.add(category_id)


def _summaries(layout: Layout) -> tuple[Summary, Summary]:
    return summarise(layout.train.json_file), summarise(layout.val.json_file)


def category_problems(layout: Layout) -> list[Problem]:
    """Categories that differ between training and validation, names that come twice."""
    train, val = _summaries(layout)
    return [*_differences(layout, train, val), *_duplicate_names(layout, train)]


def mask_problems(layout: Layout) -> list[Problem]:
    """Only one of training and validation has masks."""
    train, val = _summaries(layout)
    if train.has_masks == val.has_masks or not (train.object_image_ids and val.object_image_ids):
        return []  # a part without objects is another problem, found in its file
    with_masks, without = (layout.train, layout.val) if train.has_masks else (layout.val, layout.train)
    what = f"no annotation has a 'segmentation', but {with_masks.json_file} has them"
    mend = "Give both files segmentations, or remove them from both to train boxes alone."
    return [Problem("masks in one part only", str(without.json_file), what, mend)]


def split_problems(layout: Layout) -> list[Problem]:
    """One JSON whose objects cannot be split into training and validation."""
    count = len(summarise(layout.train.json_file).object_image_ids)
    if not layout.needs_split or count >= 2:
        return []
    what = f"{count} image{'' if count == 1 else 's'} with an object that is not a crowd"
    mend = "A split needs at least two such images, one for training and one for validation; label more."
    return [Problem("too few images to split", str(layout.train.json_file), what, mend)]


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


def _missing(root: Path) -> list[str]:
    """What the layout that the folder comes nearest to still lacks."""
    for missing in (_missing_of_coco, _missing_of_roboflow, _missing_of_single_json):
        found = missing(root)
        if found:
            return found
    return []


def _missing_of_coco(root: Path) -> list[str]:
    files = {s: sorted((root / "annotations").glob(f"instances_{s}*.json")) for s in ("train", "val")}
    if not any(files.values()):
        return []
    return [lack for split, found in files.items() for lack in _missing_of_coco_part(root, split, found)]


def _missing_of_coco_part(root: Path, split: str, files: list[Path]) -> Iterator[str]:
    pattern = f"annotations/instances_{split}*.json"
    if not files:
        yield pattern
    elif len(files) > 1:
        yield _one_instead_of(pattern, files)
    elif not (root / files[0].stem.removeprefix("instances_")).is_dir():
        folder = files[0].stem.removeprefix("instances_")
        yield f"the image folder {folder}/ of annotations/{files[0].name}"


def _missing_of_roboflow(root: Path) -> list[str]:
    def there(*folders: str) -> bool:
        return any((root / folder / "_annotations.coco.json").is_file() for folder in folders)

    missing = []
    if not there("train"):
        missing.append("train/_annotations.coco.json")
    if not there("valid", "val", "test"):
        missing.append("valid/_annotations.coco.json (or val/, or test/)")
    return missing if len(missing) < 2 else []


def _missing_of_single_json(root: Path) -> list[str]:
    files, has_images = sorted(root.glob("*.json")), (root / "images").is_dir()
    if has_images and not files:
        return ["a *.json beside images/"]
    if has_images:
        return [_one_instead_of("*.json beside images/", files)]
    return [f"the folder images/ beside {files[0].name}"] if len(files) == 1 else []


def _one_instead_of(pattern: str, files: list[Path]) -> str:
    return f"one {pattern} instead of the {len(files)}: {', '.join(file.name for file in files)}"


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
