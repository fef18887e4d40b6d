"""Read folders in the format of LabelMe: a JSON file with the shapes of each picture."""

import base64
import json
import math
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_util

from ...trust import may_read
from ..coco.document import Parsed
from ..coco.folder import AnnotatedFolder
from ..coco.layout import is_broken, is_labelme
from ..coco.values import are_numbers, is_side, shown
from ..files import find_files
from ..folder import register_format
from ..pictures import SUFFIXES
from .reading import Collector, FilesPart, as_parts, by_part, numbered, picture_size, shown_progress

ACCEPTED = """\
or LabelMe's format: a JSON file for each picture, beside it; folders with train, val and test in their names tell the
parts, else a seed splits them."""

_CORNERS = 36  # of the polygon in the place of a circle
_NO_AREA = ("point", "points", "line", "linestrip")
_KIND = "malformed LabelMe file"
Points = list[list[float]]


@register_format
class LabelMeFolder(AnnotatedFolder):
    """Represent a folder in LabelMe's format: polygons; rectangles alone are boxes without masks."""

    format_name = "LabelMe"

    @classmethod
    def recognise(cls, root: Path) -> "LabelMeFolder | None":
        """Return the folder if it has JSON files of shapes, else None."""
        files = find_files(root, ".json")
        if not any(map(is_labelme, files[:20])):
            return None
        used = [file for file in files if is_labelme(file) or is_broken(file)]
        shapes = [shape for file in used for shape in _shapes(file)]
        classes = numbered(shape["label"] for shape in shapes if isinstance(shape.get("label"), str))
        boxes_alone = all(shape.get("shape_type") in ("rectangle", *_NO_AREA) for shape in shapes)
        parts, remarks = as_parts(
            {
                part: LabelMePart(found[0].parent, root, part, tuple(found), classes, boxes_alone)
                for part, found in by_part(used, root).items()
            }
        )
        if others := len(files) - len(used):
            remarks = (*remarks, f"{others} JSON files without shapes of a picture are not used.")
        return cls(root, parts, remarks) if parts else None

    @classmethod
    def explain(cls, root: Path) -> str:
        """Say what is accepted."""
        return ACCEPTED


def _read(file: Path) -> dict[str, Any]:
    """Return the content of a file.

    Raises:
        ValueError: it is none of LabelMe's.
    """
    try:
        content = json.loads(file.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise ValueError("it has no list of shapes")
    return content


def _shapes(file: Path) -> list[dict]:
    try:
        return _read(file)["shapes"]
    except ValueError:
        return []  # said when the file is read


@dataclass(frozen=True)
class LabelMePart(FilesPart):
    """Name the JSON files of a part; ``boxes_alone`` reads rectangles as boxes without masks."""

    boxes_alone: bool = False

    def _parse(self) -> Parsed:
        found = Collector(dict(self.classes))
        left_out: Counter[str] = Counter()
        for file in shown_progress(self.labels):
            try:
                content = _read(file)
                self._add(file, content, read_objects(content["shapes"], left_out), found)
            except ValueError as error:
                found.report(_KIND, file, str(error))
        if left_out:
            kinds = ", ".join(f"{count} of the kind {kind}" for kind, count in left_out.most_common())
            found.remarks.append(f"shapes that enclose nothing, or of no known kind, are left out: {kinds}.")
        return found.parsed(self.labels)

    def _add(self, file: Path, content: dict[str, Any], objects: list["Shapes"], found: Collector) -> None:
        """Add a picture with its objects.

        Raises:
            ValueError: a mask cannot be read.
        """
        numbers = {name: number for number, name in found.names.items()}
        picture = _picture_of(file, content)
        size: Any = content.get("imageWidth"), content.get("imageHeight")
        if not all(map(is_side, size)):
            size = (picture_size(picture) if may_read(picture, self.root) else None) or (1, 1)
        width, height = size
        read = [(numbers[label], *self._box_and_mask(outlines, width, height)) for label, outlines in objects]
        name = picture.relative_to(self.root) if picture.is_relative_to(self.root) else picture
        image = found.add_image(str(name), width, height, file)
        for number, box, mask in read:
            found.add_object(image, number, box, [] if self.boxes_alone else mask)

    @staticmethod
    def _box_and_mask(outlines: list["Outline"], width: int, height: int) -> tuple[list[float], list | dict]:
        polygons = [
            [v for point in outline for v in point] for outline in outlines if isinstance(outline, list)
        ]
        masks = [outline for outline in outlines if isinstance(outline, PixelMask)]
        if masks:
            rles = [mask.encoded(width, height) for mask in masks]
            rles += mask_util.frPyObjects(polygons, height, width) if polygons else []
            merged = mask_util.merge(rles)
            return mask_util.toBbox(merged).tolist(), {**merged, "counts": merged["counts"].decode()}
        xs, ys = ([value for polygon in polygons for value in polygon[side::2]] for side in (0, 1))
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], polygons


def _picture_of(file: Path, content: dict[str, Any]) -> Path:
    """Return the picture that the file names, or that of its own name where it names none."""
    name = content.get("imagePath")
    if isinstance(name, str) and name.strip():
        return Path(os.path.normpath(file.parent / name.replace("\\", "/")))
    beside = (file.with_suffix(suffix) for suffix in SUFFIXES)
    return next((picture for picture in beside if picture.is_file()), file.with_suffix(".jpg"))


@dataclass(frozen=True)
class PixelMask:
    """Hold a mask of pixels: a PNG in base64, and the pixel (x, y) at which its upper left corner lies."""

    data: str
    x: int
    y: int

    def encoded(self, width: int, height: int) -> dict:
        """Return it as RLE of a picture of that size.

        Raises:
            ValueError: it is no PNG.
        """
        try:
            content = np.frombuffer(base64.b64decode(self.data, validate=True), np.uint8)
        except ValueError as error:
            raise ValueError("the mask of a shape is not in base64") from error
        pixels = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if content.size else None
        if pixels is None:
            raise ValueError("the mask of a shape is no picture")
        whole = np.zeros((height, width), np.uint8, order="F")
        x, y = max(self.x, 0), max(self.y, 0)
        part = pixels[: max(height - y, 0), : max(width - x, 0)] > 0
        whole[y : y + part.shape[0], x : x + part.shape[1]] = part
        return mask_util.encode(whole)


Outline = Points | PixelMask
Shapes = tuple[str, list[Outline]]
"""The label of an object, and the outlines of its shapes."""


def read_objects(shapes: list[dict], left_out: Counter[str]) -> list[Shapes]:
    """Return the objects of a picture; shapes of one label and group_id are one object.

    Args:
        shapes: as LabelMe writes them.
        left_out: counts the kinds of shapes that enclose nothing.

    Raises:
        ValueError: a shape lacks its label or points.
    """
    groups: dict[Any, list[Outline]] = defaultdict(list)
    for index, shape in enumerate(shapes):
        label, kind, points = (
            shape.get("label"),
            str(shape.get("shape_type") or "polygon"),
            shape.get("points"),
        )
        if not isinstance(label, str) or not label:
            raise ValueError(f"shape {index} has no label, but {shown(label)}")
        if not isinstance(points, list) or not all(
            are_numbers(point) and len(point) == 2 for point in points
        ):
            raise ValueError(f"shape {index} has no list of points [x, y]: {shown(points)}")
        outline: Outline | None = _outline(kind, points)
        if kind == "mask" and points and isinstance(shape.get("mask"), str):
            outline = PixelMask(shape["mask"], round(points[0][0]), round(points[0][1]))
        if outline is None:
            left_out[kind] += 1
            continue
        group = shape.get("group_id")
        groups[label, index if group is None else f"group {group}"].append(outline)
    return [(label, outlines) for (label, _), outlines in groups.items()]


def _outline(kind: str, points: Points) -> Points | None:
    """Return the corners of the polygon that a shape stands for; None if it encloses nothing."""
    if kind == "polygon" and len(points) >= 3:
        return points
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    if kind == "circle" and len(points) == 2:
        (x, y), radius = points[0], math.dist(*points)
        angles = [2 * math.pi * k / _CORNERS for k in range(_CORNERS)]
        return [[x + radius * math.cos(angle), y + radius * math.sin(angle)] for angle in angles]
    return points if kind in ("rectangle", "rotation") and len(points) == 4 else None
