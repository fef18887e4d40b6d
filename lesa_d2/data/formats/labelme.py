"""Read folders in the format of LabelMe: a JSON file with the shapes of each picture."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..coco.document import Parsed
from ..coco.folder import AnnotatedFolder
from ..coco.layout import is_labelme
from ..coco.parts import part_of_folder
from ..coco.values import are_numbers, is_side, shown
from ..files import find_files
from ..folder import register_format
from .reading import Collector, FilesPart, as_parts, picture_size, shown_progress

ACCEPTED = """\
or LabelMe's format: a JSON file for each picture, beside it; folders with train, val and test in their names tell the
parts, else a seed splits them."""

_CORNERS = 36  # of the polygon in the place of a circle
_KIND = "malformed LabelMe file"
Points = list[list[float]]


@register_format
class LabelMeFolder(AnnotatedFolder):
    """Represent a folder in LabelMe's format: polygons; rectangles alone are boxes without masks."""

    format_name = "LabelMe"

    @classmethod
    def recognise(cls, root: Path) -> "LabelMeFolder | None":
        """Return the folder if it has JSON files of shapes, else None."""
        files = find_files(root, "*.json")
        if not any(map(is_labelme, files[:20])):
            return None
        by_part: dict[str | None, list[Path]] = {}
        for file in files:
            by_part.setdefault(part_of_folder(file.relative_to(root).parent), []).append(file)
        classes = tuple(sorted({label for file in files for label in _labels(file)}))
        parts = as_parts(
            (name, LabelMePart(found[0].parent, root, name, tuple(found), classes))
            for name, found in by_part.items()
        )
        return cls(root, parts) if parts else None

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


def _labels(file: Path) -> Iterable[str]:
    try:
        return [shape["label"] for shape in _read(file)["shapes"] if isinstance(shape.get("label"), str)]
    except ValueError:
        return []  # said when the file is read


@dataclass(frozen=True)
class LabelMePart(FilesPart):
    """Name the JSON files of a part."""

    def _parse(self) -> Parsed:
        found = Collector(dict(enumerate(self.classes, 1)))
        numbers = {name: number for number, name in found.names.items()}
        left_out: Counter[str] = Counter()
        read = []
        for file in shown_progress(self.labels):
            try:
                read.append((file, _read(file), read_objects(_read(file)["shapes"], left_out)))
            except ValueError as error:
                found.report(_KIND, file, str(error))
        boxes_alone = all(
            kind == "rectangle" for _, _, objects in read for _, parts in objects for kind, _ in parts
        )
        for file, content, objects in read:
            self._add(file, content, objects, numbers, boxes_alone, found)
        if left_out:
            kinds = ", ".join(f"{count} of the kind {kind}" for kind, count in left_out.most_common())
            found.remarks.append(f"shapes that enclose nothing are left out: {kinds}.")
        return found.parsed(self.labels)

    def _add(
        self,
        file: Path,
        content: dict[str, Any],
        objects: list["Shapes"],
        numbers: dict[str, int],
        boxes_alone: bool,
        found: Collector,
    ) -> None:
        name = content.get("imagePath")
        picture = file.parent / name.replace("\\", "/") if isinstance(name, str) and name else file
        size = content.get("imageWidth"), content.get("imageHeight")
        width, height = size if all(map(is_side, size)) else picture_size(picture) or size
        relative = picture.relative_to(self.root) if picture.is_relative_to(self.root) else Path(picture.name)
        image = found.add_image(str(relative), width, height)
        for label, parts in objects:
            polygons = [[value for point in points for value in point] for _, points in parts]
            xs, ys = ([value for polygon in polygons for value in polygon[side::2]] for side in (0, 1))
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            found.add_object(image, numbers[label], box, [] if boxes_alone else polygons)


Shapes = tuple[str, list[tuple[str, Points]]]
"""The label of an object, and the kind and the points of each of its shapes."""


def read_objects(shapes: list[dict], left_out: Counter[str]) -> list[Shapes]:
    """Return the objects of a picture; shapes of one label and group_id are one object.

    Args:
        shapes: as LabelMe writes them.
        left_out: counts the kinds of shapes that enclose nothing.

    Raises:
        ValueError: a shape lacks its label or points.
    """
    groups: dict[Any, list[tuple[str, Points]]] = defaultdict(list)
    for index, shape in enumerate(shapes):
        label, kind, points = shape.get("label"), shape.get("shape_type") or "polygon", shape.get("points")
        if not isinstance(label, str) or not label:
            raise ValueError(f"shape {index} has no label, but {shown(label)}")
        if not isinstance(points, list) or not all(
            are_numbers(point) and len(point) == 2 for point in points
        ):
            raise ValueError(f"shape {index} has no list of points [x, y]: {shown(points)}")
        outline = _outline(str(kind), points)
        if outline is None:
            left_out[str(kind)] += 1
            continue
        group = shape.get("group_id")
        groups[label, index if group is None else f"group {group}"].append((str(kind), outline))
    return [(label, parts) for (label, _), parts in groups.items()]


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
