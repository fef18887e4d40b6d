"""Read a COCO JSON file, and summarise what registration needs of it."""

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager

from ..problems import DatasetProblemsError, Problem
from .entries import is_annotation, is_id, is_image, is_int, is_object


@dataclass(frozen=True)
class Summary:
    """What registration needs of a JSON file, small enough to keep."""

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
    problems = [
        *(Problem("not a COCO file", str(json_file), what, STRUCTURE) for what in _structure_mistakes(data)),
        *(Problem("malformed category", str(json_file), what, CATEGORY) for what in _category_mistakes(data)),
    ]
    if problems:
        raise DatasetProblemsError(str(json_file), problems)
    return data


STRUCTURE = "A COCO file is one object with lists of objects: images, annotations and categories."
CATEGORY = "Every category needs an integer 'id' of its own and a 'name'."


def _structure_mistakes(data: Any) -> Iterator[str]:
    if not isinstance(data, dict):
        yield f"holds a {type(data).__name__}, not an object"
        return
    for key in ("images", "annotations", "categories"):
        if key not in data:
            yield f"{key!r} is missing"
        elif not _is_list_of_objects(data[key]):
            yield f"{key!r} is not a list of objects"


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _category_mistakes(data: Any) -> Iterator[str]:
    categories = data.get("categories") if isinstance(data, dict) else None
    seen = set()
    for category in categories if _is_list_of_objects(categories) else []:
        category_id = category.get("id")
        if not is_int(category_id) or not isinstance(category.get("name"), str):
            yield f"got {category}"
        elif category_id in seen:
            yield f"id {category_id} comes twice"
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
