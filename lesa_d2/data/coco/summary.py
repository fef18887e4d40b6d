"""Read a COCO JSON file, and summarise what registration needs of it."""

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager

from ..problems import DatasetProblemsError, Problem
from .entries import is_annotation, is_id, is_image, is_int, is_object

STRUCTURE = "A COCO file is one object with lists of objects: images, annotations and categories."
CATEGORY = "Every category needs an integer 'id' of its own and a 'name'."


@dataclass(frozen=True)
class Summary:
    """Hold what registration needs of a JSON file, small enough to keep."""

    categories: dict[int, str]  # by ascending id
    supercategories: frozenset[str]
    used_categories: frozenset[int]
    image_ids: tuple[int | str, ...]
    object_image_ids: frozenset[int | str]  # of images with an object that is not a crowd
    has_masks: bool
    has_bom: bool  # a byte order mark, which detectron2 and pycocotools cannot read
    evaluable: bool  # pycocotools can score against the file as it is
    digest: str


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
        fix = "Write the file again; it may have been cut off or be of another format."
        problem = Problem("unreadable JSON", str(json_file), str(error), fix)
        raise DatasetProblemsError(str(json_file), [problem]) from error
    if problems := list(_structure_problems(str(json_file), data)):
        raise DatasetProblemsError(str(json_file), problems)
    return data


def _structure_problems(file: str, data: Any) -> Iterator[Problem]:
    wrong = partial(Problem, "not a COCO file", file, fix=STRUCTURE)
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
            yield from _category_problems(file, value)


def _category_problems(file: str, categories: list[dict]) -> Iterator[Problem]:
    seen = set()
    for category in categories:
        category_id = category.get("id")
        if not is_int(category_id) or not isinstance(category.get("name"), str):
            yield Problem("malformed category", file, f"got {category}", CATEGORY)
        elif category_id in seen:
            yield Problem("malformed category", file, f"id {category_id} comes twice", CATEGORY)
        else:
            seen.add(category_id)


def summarise(json_file: Path) -> Summary:
    """Return the :class:`Summary` of a JSON file, which is read again only when it has changed."""
    state = json_file.stat()
    return _summarise(json_file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)
def _summarise(json_file: Path, modified: int, size: int) -> Summary:
    data = read_coco(json_file)
    content = json_file.read_bytes()
    has_bom = content.startswith(codecs.BOM_UTF8)
    categories = sorted(data["categories"], key=lambda category: category["id"])
    annotations = data["annotations"]
    images = {image["id"] for image in data["images"] if is_image(image)}
    return Summary(
        categories={category["id"]: category["name"] for category in categories},
        supercategories=frozenset(c["supercategory"] for c in categories if c.get("supercategory")),
        used_categories=frozenset(i for a in annotations if is_int(i := a.get("category_id"))),
        image_ids=tuple(i for image in data["images"] if is_id(i := image.get("id"))),
        object_image_ids=frozenset(images & {a["image_id"] for a in annotations if is_object(a)}),
        has_masks=any(a.get("segmentation") for a in annotations if is_annotation(a)),
        has_bom=has_bom,
        evaluable="info" in data and not has_bom and all(map(_is_evaluable, annotations)),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _is_evaluable(annotation: dict) -> bool:
    # pycocotools keeps ids in arrays of numbers, where 0 means "no match": the object would count as missed.
    has_id = is_int(annotation.get("id")) and annotation["id"] != 0
    return has_id and "area" in annotation and "iscrowd" in annotation
