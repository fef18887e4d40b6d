"""Read folders in the format of YOLO: a YAML file, and a text file with boxes or polygons for each picture."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..coco.document import Parsed
from ..coco.folder import AnnotatedFolder
from ..coco.part import Part
from ..folder import register_format
from ..pictures import list_pictures
from .reading import Collector, FilesPart, as_parts, picture_size, shown_progress

ACCEPTED = """\
or YOLO's format: data.yaml with train, val and names, and for each picture images/…/x.jpg a file labels/…/x.txt with
lines "class x y width height" or "class x1 y1 x2 y2 …", as shares of width and height; or classes.txt beside images/
and labels/."""

Line = tuple[int, list[float], list[list[float]]]
"""The class, the box and the polygons, as shares of width and height."""


@register_format
class YoloFolder(AnnotatedFolder):
    """Represent a folder in YOLO's format: boxes, or the polygons of its segmentation."""

    format_name = "YOLO"

    @classmethod
    def recognise(cls, root: Path) -> "YoloFolder | None":
        """Return the folder if it has a YAML file that names classes and pictures, or classes.txt; else None."""
        parts = _parts_of_yaml(root) or _parts_of_classes(root)
        return cls(root, parts) if parts else None

    @classmethod
    def explain(cls, root: Path) -> str:
        """Say what is accepted."""
        return ACCEPTED


@dataclass(frozen=True)
class YoloPart(FilesPart):
    """Name the pictures of a part; ``labels`` are those of the files of labels that there are."""

    pictures: tuple[Path, ...] = ()

    def _parse(self) -> Parsed:
        found = Collector(dict(enumerate(self.classes)))
        labels = set(self.labels)
        for picture in shown_progress(self.pictures):
            label = label_of(picture, self.root)
            size = picture_size(picture)  # None: the check of the pictures says why
            image = found.add_image(str(picture.relative_to(self.root)), *(size or (1, 1)))
            if size and label in labels:
                for line in read_labels(label, found):
                    found.add_object(image, line[0], *in_pixels(line, size))
        without = len(self.pictures) - len(self.labels)
        if without:
            found.remarks.append(
                f"{without} of {len(self.pictures)} pictures have no file of labels: no objects."
            )
        return found.parsed([self.file, *self.labels])


def _parts_of_yaml(root: Path) -> dict[str, Part]:
    for file in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError):
            continue
        if isinstance(content, dict) and "names" in content and "train" in content:
            return as_parts(_parts(root, file, content))
    return {}


def _parts(root: Path, file: Path, content: dict[str, Any]) -> list[tuple[str | None, Part]]:
    names = content["names"]
    classes = tuple(map(str, names.values() if isinstance(names, dict) else names))
    parts: dict[str, list[Path]] = {}
    for name, keys in {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}.items():
        places = next((content[key] for key in keys if content.get(key)), ())
        places = [places] if isinstance(places, str) else places
        parts[name] = sorted(
            {p for place in places for p in _pictures(root, str(content.get("path", "")), place)}
        )
    if parts["val"] == parts["train"]:  # one folder for both: split by a seed
        parts = {"train": parts["train"]}
    return [
        (name, _part(file, root, name, pictures, classes)) for name, pictures in parts.items() if pictures
    ]


def _pictures(root: Path, base: str, place: str) -> list[Path]:
    """Return the pictures of a folder or of a list of files, which tools write relative to several places."""
    plain = place.replace("\\", "/")
    for candidate in (root / base / plain, root / plain, root / re.sub(r"^(\.\./)+", "", plain)):
        if candidate.is_dir():
            return [Path(name) for name in list_pictures(candidate)[0]]
        if candidate.is_file():
            lines = candidate.read_text(encoding="utf-8").split("\n")
            return [
                path for line in lines if line.strip() and (path := _listed(root, candidate, line.strip()))
            ]
    return []


def _listed(root: Path, file: Path, line: str) -> Path | None:
    return next((path for path in (root / line, file.parent / line) if path.is_file()), None)


def _parts_of_classes(root: Path) -> dict[str, Part]:
    """Return the parts of an export without YAML, such as Label Studio's."""
    file = root / "classes.txt"
    if not file.is_file() or not (root / "images").is_dir() or not (root / "labels").is_dir():
        return {}
    classes = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    pictures = [Path(name) for name in list_pictures(root / "images")[0]]
    return {"train": _part(file, root, None, pictures, classes)} if pictures else {}


def _part(
    file: Path, root: Path, name: str | None, pictures: Sequence[Path], classes: tuple[str, ...]
) -> Part:
    labels = tuple(label for picture in pictures if (label := label_of(picture, root)).is_file())
    return YoloPart(file, root, name, labels, classes, tuple(pictures))


def label_of(picture: Path, root: Path) -> Path:
    """Return the file of labels of a picture: in ``labels/`` in the place of the last ``images/``, else beside it."""
    folders = list(picture.relative_to(root).parent.parts)
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    label = root.joinpath(*folders, f"{picture.stem}.txt")
    return label if label.is_file() else picture.with_suffix(".txt")


def read_labels(file: Path, found: Collector) -> list[Line]:
    """Return the lines of a file of labels that can be read; others become problems."""
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if text.strip():
            try:
                lines.append(read_line(text))
            except ValueError as error:
                found.report("malformed YOLO line", file, f"line {number}: {error}")
    return lines


def read_line(text: str) -> Line:
    """Read "class x y width height" or "class x1 y1 x2 y2 x3 y3 …"; all but the class are shares of the picture.

    Raises:
        ValueError: it is neither.
    """
    category, *rest = text.split()
    values = [float(value) for value in rest]
    if not category.lstrip("-").isdigit():
        raise ValueError(f"the class must be a whole number, got {category!r}")
    if len(values) == 4:
        x, y, width, height = values
        return int(category), [x - width / 2, y - height / 2, width, height], []
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return int(category), box, [values]
    raise ValueError(
        f"expected 4 numbers of a box, or at least 3 points, after the class; got {len(values)} numbers"
    )


def in_pixels(line: Line, size: tuple[int, int]) -> tuple[list[float], list[list[float]]]:
    """Return the box (x, y, width, height) and the polygons of a line in pixels."""
    _, box, polygons = line
    return scaled(box, size), [scaled(polygon, size) for polygon in polygons]


def scaled(values: Sequence[float], size: tuple[int, int]) -> list[float]:
    """Return shares of width and height, alternately, in pixels."""
    return [value * size[index % 2] for index, value in enumerate(values)]
