"""Find everything in a COCO JSON file that would make training crash or go wrong, before it starts.

One small generator per kind of mistake; they yield :class:`Problem` and never stop at the first.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ..pictures import DeepPictureError, MissingPictureError, PictureError, check_picture
from ..problems import DatasetProblemsError, Problem
from ..progress import progress
from .entries import is_annotation, is_id, is_image
from .summary import read_coco

_TOLERANCE = 1.0  # pixels; annotation tools round boxes
_FARTHEST = 1e5  # pixels; pycocotools' integers overflow farther out
_NO_AREA = 1e-6  # square pixels

_PICTURE_KINDS: dict[type, str] = {
    MissingPictureError: "missing image file",
    DeepPictureError: "more than 8 bits",
}

Mistake = tuple[str, str]
"""The kind of a problem, and what it is exactly."""

_FIXES = {
    "no images": "List the images under 'images'.",
    "no annotations": "Label at least one object.",
    "only crowd annotations": "Label an object with iscrowd 0; crowds are neither learnt from nor scored.",
    "no categories": "List the classes under 'categories'.",
    "malformed image": "Every image needs an 'id', a 'file_name', and 'width' and 'height' in whole pixels.",
    "malformed annotation": "Every annotation needs an 'id', an 'image_id', a 'category_id' and a 'bbox'.",
    "duplicate image id": "Give every image an id of its own, and its annotations the same image_id.",
    "duplicate annotation id": "Number the annotations afresh, from 1.",
    "unknown image": "Add the image to 'images', or remove the annotation.",
    "unknown category": "Add the class to 'categories', or correct the category_id.",
    "ignored annotation": "detectron2 has no 'ignore'; mark the annotation with iscrowd 1 or remove it.",
    "malformed box": "A box is [x, y, width, height]: four finite numbers, in pixels.",
    "reversed box": "Width and height must be positive; the corners are probably swapped.",
    "zero-area box": "Width and height must be positive; remove the annotation or draw it again.",
    "box outside the image": "Clip the box; is it [x1, y1, x2, y2]? COCO's is [x, y, width, height].",
    "malformed polygon": "A polygon is a flat list [x1, y1, x2, y2, ...] of finite numbers.",
    "flat segmentation": "Wrap it in a list, [[x1, y1, ...]]: an object may have several polygons.",
    "polygon outside the image": "Draw it again; are the coordinates those of another image or size?",
    "zero-area polygon": "Draw it again, or remove it; it encloses nothing.",
    "polygon with fewer than 3 points": "Draw it again, or remove it.",
    "malformed RLE": "An RLE is {'size': [height, width], 'counts': ...} that covers the whole image.",
    "masks missing": "Other annotations have a mask: give this one a 'segmentation' too, or remove all.",
    "missing image file": "Put the file there, or remove the image from 'images'.",
    "image that cannot be decoded": "Replace the file, or remove the image from 'images'.",
    "more than 8 bits": "Convert the image to 8 bits; detectron2 would read it as a white area.",
    "wrong image size": "Correct 'width' and 'height'; the boxes may be off by the same factor or turn.",
}


def check_coco_json(json_file: str | Path, image_root: str | Path) -> list[Problem]:
    """Return all problems of one COCO JSON file and of its images, each of which is decoded.

    Masks may be missing altogether, because boxes can be trained alone, but not in part.
    """
    try:
        data = read_coco(json_file)
    except DatasetProblemsError as error:
        return error.problems
    coco = _Coco(str(json_file), data)
    finders = (_empty, _malformed, _duplicates, _unknown, _boxes, _missing_masks, _masks)
    problems = [problem for find in finders for problem in find(coco)]
    return problems + list(_files(coco, str(image_root)))


class _Coco:
    """Hold a parsed file; ``images`` and ``annotations`` have the well-formed entries only."""

    def __init__(self, file: str, data: dict[str, Any]) -> None:
        self.file = file
        self.data = data
        self.images = [image for image in data["images"] if is_image(image)]
        self.annotations = [a for a in data["annotations"] if is_annotation(a)]
        self.image_by_id = {image["id"]: image for image in self.images}

    def problem(self, kind: str, what: str, image_id: Any = None, annotation_id: Any = None) -> Problem:
        return Problem(kind, self.file, what, _FIXES[kind], image_id, annotation_id)

    def annotation_problem(self, kind: str, what: str, annotation: dict) -> Problem:
        return self.problem(kind, what, annotation["image_id"], annotation["id"])


def _is_finite(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in values)


# ------------------------------------------------------------------------------------------- the JSON


def _empty(coco: _Coco) -> Iterator[Problem]:
    for key in ("images", "annotations", "categories"):
        if not coco.data[key]:
            yield coco.problem(f"no {key}", f"{key!r} is an empty list")
    if coco.annotations and all(a.get("iscrowd") for a in coco.annotations):
        yield coco.problem("only crowd annotations", f"iscrowd is set in all {len(coco.annotations)}")


def _malformed(coco: _Coco) -> Iterator[Problem]:
    for kind, is_good in (("image", is_image), ("annotation", is_annotation)):
        for entry in coco.data[f"{kind}s"]:
            if not is_good(entry):
                shown = {key: value for key, value in entry.items() if key != "segmentation"}
                yield coco.problem(f"malformed {kind}", f"got {str(shown)[:200]}")


def _duplicates(coco: _Coco) -> Iterator[Problem]:
    for image_id, count in Counter(image["id"] for image in coco.images).items():
        if count > 1:
            yield coco.problem("duplicate image id", f"{count} images have it", image_id)
    first: dict[Any, dict] = {}
    for annotation in coco.annotations:
        other = first.setdefault(annotation["id"], annotation)
        if other is not annotation:
            what = f"an annotation of image {other['image_id']} has it too"
            yield coco.annotation_problem("duplicate annotation id", what, annotation)


def _unknown(coco: _Coco) -> Iterator[Problem]:
    images = {image.get("id") for image in coco.data["images"] if is_id(image.get("id"))}
    categories = {category["id"] for category in coco.data["categories"]}
    for annotation in coco.annotations:
        if annotation["image_id"] not in images:
            yield coco.annotation_problem("unknown image", "no image has this id", annotation)
        if annotation["category_id"] not in categories:
            what = f"category_id {annotation['category_id']}, known are {sorted(categories)}"
            yield coco.annotation_problem("unknown category", what, annotation)
        if annotation.get("ignore"):
            yield coco.annotation_problem("ignored annotation", "has 'ignore' set", annotation)


def _boxes(coco: _Coco) -> Iterator[Problem]:
    for annotation in coco.annotations:
        image = coco.image_by_id.get(annotation["image_id"])
        kind = _box_mistake(annotation["bbox"], image)
        if kind:
            size = f" in {image['width']}x{image['height']} px" if image else ""
            yield coco.annotation_problem(kind, f"bbox {annotation['bbox']}{size}", annotation)


def _box_mistake(box: Any, image: dict | None) -> str | None:
    if not _is_finite(box) or len(box) != 4:
        return "malformed box"
    x, y, width, height = box
    if min(width, height) < 0:
        return "reversed box"
    if min(width, height) == 0:
        return "zero-area box"
    if image is None:
        return None
    over = max(-x, -y, x + width - image["width"], y + height - image["height"])
    return "box outside the image" if over > _TOLERANCE else None


def _missing_masks(coco: _Coco) -> Iterator[Problem]:
    # Tools that know only boxes write an empty list.
    without = [a for a in coco.annotations if not a.get("segmentation")]
    if len(without) == len(coco.annotations):
        return  # boxes are trained alone then
    for annotation in without:
        yield coco.annotation_problem("masks missing", "no 'segmentation'", annotation)


def _masks(coco: _Coco) -> Iterator[Problem]:
    for annotation in coco.annotations:
        image, segmentation = coco.image_by_id.get(annotation["image_id"]), annotation.get("segmentation")
        if image and segmentation:
            for kind, what in filter(None, _mask_mistakes(segmentation, image)):
                yield coco.annotation_problem(kind, what, annotation)


def _mask_mistakes(segmentation: Any, image: dict) -> list[Mistake | None]:
    if isinstance(segmentation, dict):
        return [_rle_mistake(segmentation, image)]
    if not isinstance(segmentation, list):
        return [("malformed polygon", f"segmentation is a {type(segmentation).__name__}")]
    if any(isinstance(value, int | float) for value in segmentation):
        return [("flat segmentation", f"{len(segmentation)} numbers, not a list of polygons")]
    found = [_polygon_mistake(polygon) for polygon in segmentation]
    return found if any(found) else [_empty_mask(segmentation, image)]


def _empty_mask(polygons: list[list[float]], image: dict) -> Mistake | None:
    """Return why polygons leave no mask; None if they are smaller than a pixel, for detectron2 skips those."""
    height, width = image["height"], image["width"]
    near = [np.clip(polygon, -_FARTHEST, _FARTHEST).tolist() for polygon in polygons]
    if mask_util.area(mask_util.frPyObjects(near, height, width)).any():
        return None
    for polygon in polygons:
        x, y = np.reshape(polygon, (-1, 2)).astype(np.float64).T
        if min(x.min(), y.min()) < 0 or x.max() > width or y.max() > height:
            spans = f"x {x.min():g} to {x.max():g}, y {y.min():g} to {y.max():g}"
            return "polygon outside the image", f"{spans} in {width}x{height} px"
        x, y = x - x[0], y - y[0]
        if abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) < _NO_AREA:
            return "zero-area polygon", f"{str(polygon)[:80]}"
    return None


def _polygon_mistake(polygon: Any) -> Mistake | None:
    if not _is_finite(polygon):
        return "malformed polygon", f"not a flat list of finite numbers: {str(polygon)[:80]}"
    if len(polygon) % 2:
        return "malformed polygon", f"{len(polygon)} coordinates, an odd number"
    if len(polygon) < 6:
        return "polygon with fewer than 3 points", f"{len(polygon) // 2} points"
    return None


def _rle_mistake(rle: dict, image: dict) -> Mistake | None:
    size, counts = rle.get("size"), rle.get("counts")
    expected = [image["height"], image["width"]]
    if size != expected:
        return "malformed RLE", f"size {size}, the image has {expected}"
    if isinstance(counts, list):
        total = sum(counts) if all(isinstance(c, int) and c >= 0 for c in counts) else None
        return None if total == math.prod(size) else ("malformed RLE", "counts do not add up to the size")
    if not isinstance(counts, str):
        return "malformed RLE", "counts are neither a list nor a compressed string"
    try:
        mask_util.decode(rle)
    except ValueError as error:
        return "malformed RLE", str(error)
    return None


# ----------------------------------------------------------------------------------------- the images


def _files(coco: _Coco, image_root: str) -> Iterator[Problem]:
    """Decode every image; threads help because most of the time is spent outside Python."""

    def mistakes(image: dict) -> list[Mistake]:
        return _file_mistakes(os.path.join(image_root, image["file_name"]), image)

    with ThreadPoolExecutor() as pool:
        results = progress(pool.map(mistakes, coco.images), "Checking images", len(coco.images))
        for image, found in zip(coco.images, results, strict=True):
            for kind, what in found:
                yield coco.problem(kind, what, image["id"])


def _file_mistakes(path: str, image: dict) -> list[Mistake]:
    try:
        width, height = check_picture(path)
    except PictureError as error:
        return [(_PICTURE_KINDS.get(type(error), "image that cannot be decoded"), str(error))]
    if (width, height) == (image["width"], image["height"]):
        return []
    what = f"{image['file_name']} is {width}x{height} px, the JSON says {image['width']}x{image['height']}"
    return [("wrong image size", what)]
