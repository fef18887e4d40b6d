"""Read images to classify, which lie in one folder for each class.

Shapes: images are (3, H, W) uint8 until the model normalises them, and batches are
{"image": (N, 3, H, W), "label": (N,)}.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from ..errors import DatasetError, listed
from .folder import SPLITS
from .pictures import HIDDEN, is_hidden, list_pictures, read_picture

Record = dict[str, Any]
"""``file_name`` and ``label``, the index of its class."""

DEFAULT_ROOT = "imagenet"  # below DETECTRON2_DATASETS


class ImageRecords(list[Record]):
    """Hold the images of one split, the names of their classes, and how many files of which kind are left out."""

    def __init__(
        self, records: list[Record], classes: list[str], left_out: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(records)
        self.classes = classes
        self.left_out = dict(left_out or {})


def image_folder(root: str | None, split: str) -> ImageRecords:
    """Return the images of ``root/split/CLASS/``, at any depth; the classes are in alphabetical order.

    Names with a leading dot are neither images nor classes; what is left out is counted in ``left_out``.

    Args:
        root: the data set's folder; None is ``imagenet`` in ``$DETECTRON2_DATASETS``.
        split: "train" or "val".

    Raises:
        DatasetError: no such folder, a class without images, or the other split has other classes.
    """
    if root is None:
        root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), DEFAULT_ROOT)
    folder = Path(os.path.abspath(os.path.expanduser(root)))
    found = {name: _classes(folder / name) for name in SPLITS if (folder / name).is_dir()}
    if split not in found:
        raise DatasetError(
            f"no folder {folder / split}; expected images as DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg: "
            "give that DIR with --data"
        )
    different = sorted(set().union(*found.values()) - set(found[split]).intersection(*found.values()))
    if different:
        raise DatasetError(
            f"{folder}: train and val must hold the same classes; only one of them has {listed(different)}"
        )
    classes = found[split]
    if not classes:
        raise DatasetError(f"{folder / split} holds no folder of a class; expected CLASS/*.jpg in it")
    changed = (folder / split).stat().st_mtime_ns
    files, left_out = _read(str(folder / split), changed, tuple(classes.items()))
    records = [
        {"file_name": file, "label": k} for k, name in enumerate(classes) for file in files.get(name, ())
    ]
    if empty := [name for name in classes if not files.get(name)]:
        raise DatasetError(
            f"{folder / split}: {len(empty)} of {len(classes)} classes have no image: {listed(empty)}"
            f"{_described(left_out)}; put images there, or remove the folders"
        )
    return ImageRecords(records, list(classes), left_out)


def _classes(folder: Path) -> dict[str, int]:
    """Return the names of the classes in order, and when their folders were changed."""
    entries = [entry for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name)]
    return {entry.name: entry.stat().st_mtime_ns for entry in sorted(entries, key=lambda entry: entry.name)}


@lru_cache(maxsize=4)
def _read(
    folder: str, changed: int, classes: tuple[tuple[str, int], ...]
) -> tuple[dict[str, list[str]], Counter[str]]:
    """Return the images of each class, and what is left out; read anew when it or a class's folder has changed."""
    names = {name for name, _ in classes}
    left_out: Counter[str] = Counter()
    for entry in os.scandir(folder):
        if entry.name not in names:
            left_out[HIDDEN if is_hidden(entry.name) else "beside the folders of classes"] += 1
    files = {}
    for name in names:
        files[name], others = list_pictures(os.path.join(folder, name))
        left_out += others
    return files, left_out


def _described(left_out: Mapping[str, int]) -> str:
    shown = ", ".join(f"{count:,} {kind}" for kind, count in sorted(left_out.items()))
    return f" (left out: {shown})" if shown else ""


def describe_images(records: ImageRecords) -> str:
    """Return a text with the number of images, and what is left out."""
    return f"{len(records):,}{_described(records.left_out)}"


class ImageMapper:
    """Read the image of a record: {"file_name", "label"} -> {"image": (3, H, W) uint8, "label": int}.

    Args:
        transform: one of torchvision's ``transforms.v2``, for the uint8 tensor.
        image_format: "RGB" or "BGR", the order of the channels.

    Raises:
        DatasetError: the file is not an image; names it.
    """

    checks_files = True
    """For ``lesa_d2.data.loader.CheckedMapper``, as errors name the file already."""

    def __init__(self, transform: Callable[[Tensor], Tensor], image_format: str = "RGB") -> None:
        self.transform = transform
        self.image_format = image_format

    def __call__(self, record: Record) -> dict[str, Any]:
        """Read the image of a record."""
        image = self.transform(read_image(record["file_name"]))
        return {"image": image if self.image_format == "RGB" else image.flip(0), "label": record["label"]}


def read_image(file: str) -> Tensor:
    """Return an image (3, H, W) uint8 RGB, as :func:`lesa_d2.data.pictures.read_picture` reads it.

    Raises:
        PictureError: the file cannot be read.
    """
    return torch.from_numpy(read_picture(file)).permute(2, 0, 1)


def build_image_test_loader(
    dataset: ImageRecords, *, mapper: ImageMapper, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Build a loader of stacked batches with every image once, in order, shared between the processes."""
    return build_detection_test_loader(
        dataset, mapper=mapper, batch_size=batch_size, num_workers=num_workers, collate_fn=default_collate
    )
