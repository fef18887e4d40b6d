"""Read one part of a folder, for training, validation or test, and keep what registration needs of it."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...trust import PATHS_VARIABLE
from ..problems import DatasetProblemsError, Problem
from .document import Document, Parsed, parse, read_document
from .entries import is_object
from .locate import Located, PictureIndex, folders_state
from .parts import part_of_name

_BESIDE = ("images", "data", "imgs", "JPEGImages")


@dataclass(frozen=True)
class ImageSummary:
    """Hold an image's id, its file below the image root, its size and the category ids of its objects."""

    id: int | str
    file_name: str
    width: int
    height: int
    categories: frozenset[int]
    label_file: str = ""


@dataclass(frozen=True)
class Summary:
    """Hold what registration needs of a part, small enough to keep.

    Attributes:
        image_root: the folder that file names are relative to.
        categories: id, name and supercategory, by ascending id.
        objects: number of objects by category id; crowds are none.
        crowds: number of crowds by category id.
        images: of all images.
        has_masks: an annotation has a mask.
        is_plain: detectron2 and pycocotools can read the JSON file as it is.
        problems: of the values in the file.
        remarks: sentences about what was read otherwise than it stands there.
        totals: the numbers of images and of annotations in the file.
        digest: of the file's content.
    """

    image_root: Path
    categories: tuple[tuple[int, str, str], ...]
    objects: dict[int, int]
    crowds: dict[int, int]
    images: tuple[ImageSummary, ...]
    has_masks: bool
    is_plain: bool
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]
    totals: tuple[int, int]
    digest: str

    @property
    def object_images(self) -> int:
        """Return how many images have an object that is not a crowd."""
        return sum(bool(image.categories) for image in self.images)


@dataclass(frozen=True)
class Part:
    """Name the JSON file of a part and the folder in which its pictures are.

    Attributes:
        file: the file with the annotations.
        root: the folder below which the pictures are looked for.
        name: "train", "val", "test", or None where the name of the file does not say.
    """

    file: Path
    root: Path
    name: str | None = None

    @property
    def image_root(self) -> Path:
        """Return the folder that the file names are relative to."""
        return self.summary().image_root

    def read(self) -> Document:
        """Read the file as it is now, and find its pictures.

        Raises:
            DatasetProblemsError: the file as a whole cannot be read.
        """
        return self._read()[0]

    def _read(self) -> tuple[Document, str]:
        try:
            with _without_collection():
                parsed = self._parse()
                return read_document(parsed, self.file, self._locate), parsed.digest
        except OSError as error:
            raise unreadable(self.file, error) from error

    def _parse(self) -> Parsed:
        return parse(self.file)

    def _locate(self, names: list[str]) -> Located:
        located = PictureIndex(self.root).locate(names, self.file, self.name)
        if len(located.missing) < len(located.names):
            return located
        above = self.root.parent
        of_part = [f for f in above.iterdir() if self.name and part_of_name(f.name) == self.name]
        beside = [f for f in (*(above / name for name in _BESIDE), *of_part) if f.is_dir() and f != self.root]
        return PictureIndex(self.root, beside).locate(names, self.file, self.name) if beside else located

    def state(self) -> tuple:
        """Return what changes when the file, the names of the pictures, or what may be read change."""
        file, readable = self.file.stat(), os.environ.get(PATHS_VARIABLE)
        return file.st_mtime_ns, file.st_size, file.st_ino, readable, folders_state(self.root)

    def summary(self) -> Summary:
        """Return the summary of the file, which is read again only when something has changed."""
        return _summary(self, self.state())


@contextmanager
def _without_collection() -> Iterator[None]:
    """Stop Python's search for garbage, which would go through millions of numbers again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@lru_cache(maxsize=16)
def _summary(part: Part, state: tuple) -> Summary:
    document, digest = part._read()
    return summarise(document, digest)


def unreadable(file: Path, error: OSError) -> DatasetProblemsError:
    """Return the error for a file that the system does not let us read."""
    where = str(error.filename or file)
    problem = Problem(
        "unreadable file", where, str(error.strerror or error), "Make it readable, or remove it."
    )
    return DatasetProblemsError(where, [problem])


def summarise(document: Document, digest: str = "") -> Summary:
    """Return the summary of a document."""
    objects = {category["id"]: 0 for category in document.categories}
    crowds = dict(objects)
    of_image: dict[int | str, set[int]] = {image["id"]: set() for image in document.images}
    for annotation in document.annotations:
        category, kind = annotation["category_id"], objects if is_object(annotation) else crowds
        kind[category] = kind.get(category, 0) + 1
        if is_object(annotation) and annotation["image_id"] in of_image:
            of_image[annotation["image_id"]].add(category)
    images = [
        ImageSummary(
            i["id"],
            i["file_name"],
            i["width"],
            i["height"],
            frozenset(of_image[i["id"]]),
            document.label_files.get(i["id"], document.file),
        )
        for i in document.images
    ]
    return Summary(
        image_root=document.image_root,
        categories=tuple((c["id"], c["name"], c["supercategory"]) for c in document.categories),
        objects=objects,
        crowds=crowds,
        images=tuple(images),
        has_masks=any(annotation.get("segmentation") for annotation in document.annotations),
        is_plain=document.is_plain,
        problems=tuple(document.problems),
        remarks=tuple(document.remarks),
        totals=document.totals,
        digest=digest,
    )
