"""Open folders of annotated images, whatever their format.

Another format is one new file with a class that has the members of :class:`DatasetFolder` and is registered by
:func:`register_format`.  :class:`lesa_d2.data.coco.CocoFolder` is the format of COCO.
"""

from pathlib import Path
from typing import Protocol, TypeVar

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..errors import DatasetError
from .problems import Problem
from .unknown_formats import named_formats

SPLITS = ("train", "val")
PARTS = {"train": "training", "val": "validation", "test": "test"}
"""All parts that a folder can have, with their names for people."""


class DatasetFolder(Protocol):
    """Describe a folder of images with objects, split into training and validation."""

    @classmethod
    def recognise(cls, root: Path) -> "DatasetFolder | None":
        """Return the folder if it has this format, else None."""

    @classmethod
    def explain(cls, root: Path) -> str:
        """Say what this format accepts, and what a folder that it does not recognise lacks."""

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes, in the order of their indices."""

    @property
    def has_masks(self) -> bool:
        """Tell whether the objects for training have masks."""

    def description(self) -> list[str]:
        """Return a line for each part: where its annotations and pictures are, and how many there are."""
        return []

    def remarks(self) -> list[str]:
        """Return sentences about what makes results look better than they are, and about what was assumed."""
        return []

    def problems(self) -> list[Problem]:
        """Return everything that is wrong with the folder; with ``drop_invalid`` this is left out."""

    def check(self) -> None:
        """Check the folder as it is now.

        Raises:
            DatasetProblemsError: lists all problems at once.
        """

    def register(
        self, split: str, *, seed: int = 0, val_fraction: float = 0.2, drop_invalid: bool = False
    ) -> str:
        """Register a split with detectron2 and return its name, which differs for other arguments.

        Args:
            split: "train", "val", or "test" where the folder has such a part.
            seed: of the random split of a folder that is not split itself.
            val_fraction: share of the images for validation in such a folder.
            drop_invalid: leave out the images and annotations that have problems.
        """


Format = TypeVar("Format", bound=type[DatasetFolder])

FORMATS: list[type[DatasetFolder]] = []
"""The formats that :func:`open_folder` tries, in this order."""


def register_format(kind: Format) -> Format:
    """Add a format to ``FORMATS``; used as a decorator."""
    FORMATS.append(kind)
    return kind


def open_folder(directory: str | Path) -> DatasetFolder:
    """Open a folder of annotated images in any known format.

    Raises:
        DatasetError: there is no such folder, or no format recognises it.
    """
    root = Path(PathManager.get_local_path(str(directory)))
    if not root.is_dir():
        raise DatasetError(f"data set folder {directory} does not exist or is not a folder")
    try:
        for kind in FORMATS:
            if folder := kind.recognise(root):
                return folder
        explanations = [*named_formats(root), *(kind.explain(root) for kind in FORMATS)]
    except OSError as error:
        what = f"{error.filename or directory} cannot be read: {error.strerror or error}"
        raise DatasetError(f"{what}; make it readable, or move it out of {directory}") from error
    raise DatasetError("\n".join([f"{directory} is not laid out in a known way.", *explanations]))


def folder_split(
    directory: str, split: str, seed: int = 0, val_fraction: float = 0.2, drop_invalid: bool = False
) -> str:
    """Register a split of a folder and return its name, for a config.

    A LazyConfig node: ``names=L(folder_split)(directory=DIR, split="train")``.  The arguments are those of
    :meth:`DatasetFolder.register`.
    """
    name = open_folder(directory).register(
        split, seed=seed, val_fraction=val_fraction, drop_invalid=drop_invalid
    )
    folder = Path(PathManager.get_local_path(directory)).resolve().name
    MetadataCatalog.get(name).title = f"{folder}, {PARTS.get(split, split)}"  # the name ends in a digest
    return name
