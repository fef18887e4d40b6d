"""What the readers of formats with a file for each picture have in common."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..coco.document import Parsed
from ..coco.part import Part
from ..coco.parts import part_of_folder
from ..pictures import PictureError, check_header
from ..problems import Problem
from ..progress import progress

UNREADABLE_FIX = "Correct or remove the line or the file."


@dataclass
class Collector:
    """Collect images, objects and problems into the structure of a COCO file."""

    names: dict[int, str] = field(default_factory=dict)  # classes by id
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    label_files: dict[int, str] = field(default_factory=dict)

    def add_image(self, file_name: str, width: Any, height: Any, label: Path) -> int:
        """Add an image, whose annotations are in the file ``label``, and return its id."""
        image_id = len(self.images) + 1
        self.label_files[image_id] = str(label)
        self.images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        return image_id

    def add_object(self, image_id: int, category_id: int, box: Sequence[float], mask: list | dict) -> None:
        """Add an object with its box (x, y, width, height) and its polygons or RLE, in pixels; there may be none."""
        annotation = {"id": len(self.annotations) + 1, "image_id": image_id, "category_id": category_id}
        self.annotations.append({**annotation, "bbox": list(box), "iscrowd": 0, "segmentation": mask})

    def report(self, kind: str, file: Path, what: str, fix: str = UNREADABLE_FIX) -> None:
        """Add a problem; leaving out what is invalid leaves out the line or the file."""
        self.problems.append(Problem(kind, str(file), what, fix))

    def parsed(self, files: Iterable[Path]) -> Parsed:
        """Return what was collected from ``files``."""
        categories = [{"id": i, "name": name} for i, name in sorted(self.names.items())]
        data = {"images": self.images, "annotations": self.annotations, "categories": categories}
        digest = hashlib.sha256()
        for file in filter(Path.is_file, files):
            digest.update(file.read_bytes())
        return Parsed(
            data, digest.hexdigest(), False, tuple(self.problems), tuple(self.remarks), self.label_files
        )


@dataclass(frozen=True)
class FilesPart(Part):
    """Name a part with one file of labels for each picture.

    Attributes:
        labels: the files.
        classes: ids and names of the classes.
    """

    labels: tuple[Path, ...] = ()
    classes: tuple[tuple[int, str], ...] = ()

    def state(self) -> tuple:
        """Return what changes when a file, or the names of pictures, change."""
        return (*super().state(), _state_of(self.labels))


def _state_of(files: Iterable[Path]) -> int:
    return hash(tuple((file.lstat().st_mtime_ns, file.lstat().st_size) for file in files))


def picture_size(file: Path) -> tuple[int, int] | None:
    """Return width and height of a picture as it stands upright, from its header; None if it cannot be read."""
    try:
        return check_header(file)
    except PictureError:
        return None


def shown_progress(files: Sequence[Path]) -> Iterable[Path]:
    """Return the files with a progress bar."""
    return progress(files, "Reading labels", len(files))


def as_parts(found: dict[str | None, Part]) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Return the parts of a folder by name, none if none is for training, and remarks.

    A part without a name, if it is the only one, is for training and split by a seed.
    """
    whole = found.get(None)
    parts = {name: part for name, part in found.items() if name}
    if not parts:
        return ({"train": whole} if whole else {}), ()
    remarks = []
    if whole and isinstance(whole, FilesPart):
        remarks.append(
            f"{len(whole.labels)} files of labels are not used, because their folders tell no part."
        )
    if "val" not in parts and "test" in parts:
        parts["val"] = parts["test"]
        remarks.append("There is no part for validation: the one for test is used for it.")
    return (parts if "train" in parts else {}), tuple(remarks)


def by_part(files: Iterable[Path], root: Path) -> dict[str | None, list[Path]]:
    """Return files by the part that the names of their folders below ``root`` tell; None where they tell none."""
    found: dict[str | None, list[Path]] = {}
    for file in files:
        found.setdefault(part_of_folder(file.relative_to(root).parent), []).append(file)
    return found


def numbered(names: Iterable[str]) -> tuple[tuple[int, str], ...]:
    """Return ids from 1 for names of classes in alphabetical order."""
    return tuple(enumerate(sorted(set(names)), 1))
