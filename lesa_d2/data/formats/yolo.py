"""Read folders in the format of YOLO: a YAML file, and a text file with boxes or polygons for each picture."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ...errors import DatasetError
from ...trust import may_read
from ..coco.document import Parsed
from ..coco.folder import AnnotatedFolder
from ..coco.locate import Located, is_there
from ..coco.part import Part
from ..files import find_files, read_lines
from ..folder import register_format
from ..pictures import list_pictures
from .reading import Collector, FilesPart, as_parts, by_part, picture_size, shown_progress

ACCEPTED = """\
or YOLO's format: data.yaml with train, val and names, and for each picture images/…/x.jpg a file labels/…/x.txt with
lines "class x y width height" or "class x1 y1 x2 y2 …", as shares of width and height; or classes.txt beside images/
and labels/."""

_KIND = "malformed YOLO line"
_LARGE = 1_000_000  # bytes; no file of names is so large
Line = tuple[int, list[float], list[float]]
"""The class, the box and the polygon, if there is one, as shares of width and height."""


@register_format
class YoloFolder(AnnotatedFolder):
    """Represent a folder in YOLO's format: boxes, or the polygons of its segmentation."""

    format_name = "YOLO"

    @classmethod
    def recognise(cls, root: Path) -> "YoloFolder | None":
        """Return the folder if it has a YAML file that names classes and pictures, or classes.txt; else None.

        Raises:
            DatasetError: there is such a YAML file, but it cannot be used.
        """
        error: DatasetError | None = None
        for file in find_files(root, ".yaml", ".yml", levels=1):
            content = _read_yaml(file)
            if content is not None:
                try:
                    return cls(root, *_parts_of_yaml(root, file, content))
                except DatasetError as wrong:
                    error = error or wrong
        if error:
            raise error
        parts, remarks = _parts_of_classes(root)
        return cls(root, parts, remarks) if parts else None

    @classmethod
    def explain(cls, root: Path) -> str:
        """Say what is accepted."""
        return ACCEPTED


@dataclass(frozen=True)
class YoloPart(FilesPart):
    """Name the pictures of a part; ``labels`` are those of the files of labels that there are.

    Attributes:
        pictures: which need not be there.
        boxes_alone: only boxes are read; keypoints follow them in the lines.
    """

    pictures: tuple[Path, ...] = ()
    boxes_alone: bool = False

    def _locate(self, names: list[str]) -> Located:
        """Take the pictures as they are: each was found with its file of labels."""
        missing: dict[str, list[str]] = {
            name: [] for name in names if not is_there(os.path.join(self.root, name))
        }
        outside = {
            name for name in names if name not in missing and not may_read(self.root / name, self.root)
        }
        return Located(self.root, {name: name for name in names}, missing, outside=outside)

    def _parse(self) -> Parsed:
        found = Collector(dict(self.classes))
        read = []
        for picture in shown_progress(self.pictures):
            label = label_of(picture, self.root)
            is_readable = may_read(picture, self.root)
            read.append((picture, label, _read_labels(label, self.boxes_alone, found) if is_readable else []))
        lines = [line for _, _, of_picture in read for line in of_picture]
        with_polygon = sum(bool(polygon) for _, _, polygon in lines)
        as_boxes = 0 < with_polygon < len(lines)
        if as_boxes:
            found.remarks.append(
                f"{with_polygon} lines are polygons and {len(lines) - with_polygon} are boxes: all are read as boxes."
            )
        for picture, label, of_picture in read:
            # None: the check of the pictures says why
            size = picture_size(picture) if may_read(picture, self.root) else None
            image = found.add_image(_name(picture, self.root), *(size or (1, 1)), label)
            for category, box, polygon in of_picture if size else ():
                polygons = [] if as_boxes or not polygon else [scaled(polygon, size or (1, 1))]
                found.add_object(image, category, scaled(box, size or (1, 1)), polygons)
        if without := len(self.pictures) - len(self.labels):
            found.remarks.append(
                f"{without} of {len(self.pictures)} pictures have no file of labels: no objects."
            )
        return found.parsed([self.file, *self.labels])


def _name(picture: Path, root: Path) -> str:
    return str(picture.relative_to(root)) if picture.is_relative_to(root) else str(picture)


# ------------------------------------------------------------------------------------------- the YAML file


class _PlainLoader(yaml.SafeLoader):
    """Load YAML without aliases, which can make a small file grow without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias.

        Raises:
            YAMLError: there is one.
        """
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _read_yaml(file: Path) -> dict[str, Any] | None:
    """Return the content of a YAML file that names classes and pictures for training, else None."""
    if file.stat().st_size > _LARGE:
        return None
    try:
        content = yaml.load(file.read_text(encoding="utf-8-sig", errors="replace"), _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and {"names", "train"} <= set(content) else None


def _parts_of_yaml(
    root: Path, file: Path, content: dict[str, Any]
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Return the parts that a YAML file names, and remarks.

    Raises:
        DatasetError: the names or places are of another type, or there is no picture for training.
    """
    classes = _names(root, file, content["names"])
    found: dict[str | None, list[Path]] = {}
    remarks = []
    for part, keys in {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}.items():
        places: Any = next((content[key] for key in keys if content.get(key)), [])
        places = [places] if isinstance(places, str) else places
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise DatasetError(
                f"{file}: {part} must be a folder, a list of files, or several of them; got {places!r}"
            )
        for place in places:
            pictures = _pictures(root, str(content.get("path") or ""), place)
            found.setdefault(part, []).extend(pictures)
            if not pictures:
                remarks.append(f"{file.name} names {place} for {part}, where no picture is.")
    if not found.get("train"):
        raise DatasetError(
            f"{file}: {remarks[0] if remarks else 'train is empty.'} Correct it, or put pictures there."
        )
    if found.get("val") == found["train"]:  # one folder for both: split by a seed
        del found["val"]
    pose = "kpt_shape" in content
    if pose:
        remarks.append(f"{file.name} has kpt_shape: the boxes are read, and the keypoints are not.")
    made = {part: _part(file, root, part, files, classes, pose) for part, files in found.items() if files}
    parts, more = as_parts(made)
    return parts, (*remarks, *more)


def _names(root: Path, file: Path, names: Any) -> tuple[tuple[int, str], ...]:
    """Return ids and names of the classes: a list, a mapping from ids, a single name, or a file with one in a line.

    Raises:
        DatasetError: none of these.
    """
    if isinstance(names, str):
        is_list = may_read(root / names, root) and (root / names).is_file()
        names = read_lines(root / names) if is_list else [names]
    pairs = list(
        names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ()
    )
    plain = all(type(i) is int and isinstance(name, str | int | float) for i, name in pairs)
    if not pairs or not plain:
        raise DatasetError(f"{file}: names must be a list of names or a mapping from whole numbers to names")
    return tuple((i, str(name)) for i, name in sorted(pairs))


def _pictures(root: Path, base: str, place: str) -> list[Path]:
    """Return the pictures of a folder or of a list of files, which tools write relative to several places.

    What is below ``root`` is preferred: ``../train/images`` of Roboflow is ``train/images``, and of an absolute path,
    which may be one of another machine, the end is looked for.
    """
    parts = [part for part in PurePosixPath(place.replace("\\", "/")).parts if part not in ("..", ".", "/")]
    ends = range(len(parts)) if PurePosixPath(place).is_absolute() or ":" in place else range(1)
    inside = [folder / PurePosixPath(*parts[start:]) for start in ends for folder in (root / base, root)]
    for candidate in (*inside, root / base / place):
        if candidate.is_dir():
            return [Path(name) for name in list_pictures(candidate)[0]]
        if candidate.is_file():
            is_readable = may_read(
                candidate, root
            )  # else a picture outside of the folder, which is a problem
            return (
                [_listed(root, candidate, x) for x in read_lines(candidate)] if is_readable else [candidate]
            )
    return []


def _listed(root: Path, file: Path, line: str) -> Path:
    """Return the picture that a line of a list names; where it is nowhere, the place where it should be."""
    parts = [part for part in PurePosixPath(line.replace("\\", "/")).parts if part not in ("..", ".", "/")]
    ends = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
    places = [*(folder / end for end in ends for folder in (root, file.parent)), Path(line)]
    return next((path for path in places if path.is_file()), root / PurePosixPath(*parts))


def _parts_of_classes(root: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Return the parts of an export without YAML, such as Label Studio's, and remarks."""
    file = root / "classes.txt"
    if not file.is_file() or not (root / "images").is_dir() or not (root / "labels").is_dir():
        return {}, ()
    found = by_part(map(Path, list_pictures(root / "images")[0]), root)
    classes = tuple(enumerate(read_lines(file)))
    return as_parts({part: _part(file, root, part, files, classes) for part, files in found.items()})


def _part(
    file: Path,
    root: Path,
    name: str | None,
    pictures: Iterable[Path],
    classes: tuple[tuple[int, str], ...],
    boxes_alone: bool = False,
) -> Part:
    unique = tuple(dict.fromkeys(pictures))
    readable = [picture for picture in unique if may_read(picture, root)]
    labels = tuple(label for picture in readable if os.path.lexists(label := label_of(picture, root)))
    return YoloPart(file, root, name, labels, classes, unique, boxes_alone)


# ------------------------------------------------------------------------------------------------- labels


def label_of(picture: Path, root: Path) -> Path:
    """Return the file of labels of a picture: in ``labels/`` in the place of the last ``images/``, else beside it."""
    inside = picture.is_relative_to(root)
    folders = list((picture.relative_to(root) if inside else picture).parent.parts)
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    label = (root if inside else Path()).joinpath(*folders, f"{picture.stem}.txt")
    return label if os.path.lexists(label) else picture.with_suffix(".txt")


def _read_labels(file: Path, boxes_alone: bool, found: Collector) -> list[Line]:
    """Return the lines of a file of labels that can be read; others become problems."""
    if not os.path.lexists(file):
        return []
    if not file.is_file():
        found.report(_KIND, file, "it is no file that can be read")
        return []
    lines = []
    for number, text in enumerate(read_lines(file), 1):
        try:
            lines.append(read_line(text, boxes_alone))
        except ValueError as error:
            found.report(_KIND, file, f"line {number}: {error}")
    return lines


def read_line(text: str, boxes_alone: bool = False) -> Line:
    """Read "class x y width height" or "class x1 y1 x2 y2 x3 y3 …"; all but the class are shares of the picture.

    Raises:
        ValueError: it is neither.
    """
    category, *rest = text.split()
    values = [float(value) for value in rest]
    if not category.isdecimal():
        raise ValueError(f"the class must be a whole number, got {category[:20]!r}")
    if len(values) == 4 or (boxes_alone and len(values) > 4):
        x, y, width, height = values[:4]
        return int(category), [x - width / 2, y - height / 2, width, height], []
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        return int(category), [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], values
    raise ValueError(
        f"expected 4 numbers of a box, or at least 3 points, after the class; got {len(values)} numbers"
    )


def scaled(values: Sequence[float], size: tuple[int, int]) -> list[float]:
    """Return shares of width and height, alternately, in pixels."""
    return [value * size[index % 2] for index, value in enumerate(values)]
