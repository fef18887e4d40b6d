"""Pictures to classify: a folder a class, as torchvision's ImageFolder reads them, and their loaders.

Shapes: images are (3, H, W) uint8 until the model normalises them, and batches are
{"image": (N, 3, H, W), "label": (N,)}.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from detectron2.utils.file_io import PathManager
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image

from ..errors import DatasetError

Record = dict[str, Any]
"""``file_name`` and ``label``, the index of its class."""

DEFAULT_ROOT = "imagenet"  # below DETECTRON2_DATASETS
SPLITS = ("train", "val")


class ImageRecords(list[Record]):
    """The pictures of one split, and the names of their classes."""

    def __init__(self, records: list[Record], classes: list[str]) -> None:
        super().__init__(records)
        self.classes = classes


def image_folder(root: str | None, split: str) -> ImageRecords:
    """The pictures of ``root/split/CLASS/``; classes in alphabetical order.

    Args:
        root: the data set's folder; None is ``imagenet`` in ``$DETECTRON2_DATASETS``.
        split: "train" or "val".

    Raises:
        DatasetError: no such folder, a class without pictures, or splits with different classes.
    """
    if root is None:
        root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), DEFAULT_ROOT)
    records, classes = _read(os.path.abspath(os.path.expanduser(root)), split)
    return ImageRecords(list(records), list(classes))


@lru_cache(maxsize=4)
def _read(root: str, split: str) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    folders = {name: Path(root) / name for name in SPLITS}
    missing = [str(folder) for folder in folders.values() if not folder.is_dir()]
    if missing:
        raise DatasetError(
            f"no folder {' and no folder '.join(missing)}; expected pictures as DIR/train/CLASS/*.jpg and "
            "DIR/val/CLASS/*.jpg: give that DIR with --data"
        )
    classes = {name: _classes(folder) for name, folder in folders.items()}
    different = sorted(classes["train"] ^ classes["val"])
    if different:
        raise DatasetError(
            f"{root}: train and val must hold the same classes; only one of them has {_shown(different)}"
        )
    try:
        found = ImageFolder(str(folders[split]))
    except FileNotFoundError as error:  # classes without a picture
        raise DatasetError(f"{folders[split]}: {error}") from error
    return tuple({"file_name": name, "label": label} for name, label in found.samples), tuple(found.classes)


def _classes(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder) if entry.is_dir()}


def _shown(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


class ImageMapper:
    """Reads a record's picture: {"file_name", "label"} -> {"image": (3, H, W) uint8, "label": int}.

    Args:
        transform: of the uint8 tensor; torchvision's ``transforms.v2``.
        image_format: "RGB" or "BGR", the order of the channels.

    Raises:
        DatasetError: the file is no picture that torchvision reads; names it.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], image_format: str = "RGB") -> None:
        self.transform = transform
        self.image_format = image_format

    def __call__(self, record: Record) -> dict[str, Any]:
        image = self.transform(read_image(record["file_name"]))
        return {"image": image if self.image_format == "RGB" else image.flip(0), "label": record["label"]}


def read_image(file: str) -> Tensor:
    """(3, H, W) uint8 RGB, turned upright as its EXIF tag says; half as long as by way of PIL."""
    try:
        with PathManager.open(file, "rb") as stream:
            data = torch.frombuffer(bytearray(stream.read()), dtype=torch.uint8)
        return decode_image(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"{file} cannot be read as a picture ({reason}); expected JPEG, PNG, GIF or WebP: mend or "
            "remove it"
        ) from error


def build_image_test_loader(
    dataset: ImageRecords, *, mapper: ImageMapper, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Every picture once, in order, shared between the processes; stacked batches."""
    return build_detection_test_loader(
        dataset, mapper=mapper, batch_size=batch_size, num_workers=num_workers, collate_fn=default_collate
    )
