"""Read images to classify, which lie in one folder for each class as for torchvision's ImageFolder.

Shapes: images are (3, H, W) uint8 until the model normalises them, and batches are
{"image": (N, 3, H, W), "label": (N,)}.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from ..errors import DatasetError, listed
from .folder import SPLITS

Record = dict[str, Any]
"""``file_name`` and ``label``, the index of its class."""

DEFAULT_ROOT = "imagenet"  # below DETECTRON2_DATASETS


class ImageRecords(list[Record]):
    """Hold the images of one split, and the names of their classes."""

    def __init__(self, records: list[Record], classes: list[str]) -> None:
        super().__init__(records)
        self.classes = classes


def image_folder(root: str | None, split: str) -> ImageRecords:
    """Return the images of ``root/split/CLASS/``; the classes are in alphabetical order.

    Args:
        root: the data set's folder; None is ``imagenet`` in ``$DETECTRON2_DATASETS``.
        split: "train" or "val".

    Raises:
        DatasetError: no such folder, a class without images, or the other split has other classes.
    """
    if root is None:
        root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), DEFAULT_ROOT)
    records, classes = _read(os.path.abspath(os.path.expanduser(root)), split)
    return ImageRecords(list(records), list(classes))


@lru_cache(maxsize=4)
def _read(root: str, split: str) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    folder, *others = sorted((Path(root) / name for name in SPLITS), key=lambda path: path.name != split)
    if not folder.is_dir():
        raise DatasetError(
            f"no folder {folder}; expected images as DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg: give "
            "that DIR with --data"
        )
    present = [_classes(path) for path in (folder, *others) if path.is_dir()]
    different = sorted(set().union(*present) - present[0].intersection(*present))
    if different:
        raise DatasetError(
            f"{root}: train and val must hold the same classes; only one of them has {listed(different)}"
        )
    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:  # classes without an image
        raise DatasetError(f"{folder}: {error}") from error
    return tuple({"file_name": name, "label": label} for name, label in found.samples), tuple(found.classes)


def _classes(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder) if entry.is_dir()}


class ImageMapper:
    """Read the image of a record: {"file_name", "label"} -> {"image": (3, H, W) uint8, "label": int}.

    Args:
        transform: one of torchvision's ``transforms.v2``, for the uint8 tensor.
        image_format: "RGB" or "BGR", the order of the channels.

    Raises:
        DatasetError: the file is not an image; names it.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], image_format: str = "RGB") -> None:
        self.transform = transform
        self.image_format = image_format

    def __call__(self, record: Record) -> dict[str, Any]:
        """Read the image of a record."""
        image = self.transform(read_image(record["file_name"]))
        return {"image": image if self.image_format == "RGB" else image.flip(0), "label": record["label"]}


def read_image(file: str) -> Tensor:
    """Return an image (3, H, W) uint8 RGB, turned upright as its EXIF tag says; of an animation the first one.

    torchvision decodes the usual formats, in half of PIL's time, and PIL decodes all others.

    Raises:
        DatasetError: neither can read the file.
    """
    try:
        with PathManager.open(file, "rb") as stream:
            data = stream.read()
        try:
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            image = decode_image(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        except (RuntimeError, ValueError):  # another format, or damaged: PIL's error says which
            pil_image = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
            image = v2.functional.pil_to_tensor(pil_image)
    except UnidentifiedImageError as error:
        raise DatasetError(
            f"{file} cannot be read as an image (no known format); fix or remove it"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for broken files
        raise DatasetError(f"{file} cannot be read as an image ({error}); fix or remove it") from error
    first = image if image.dim() == 3 else image[0]
    return v2.functional.to_dtype(first, torch.uint8, scale=True)  # some have 16 bits


def build_image_test_loader(
    dataset: ImageRecords, *, mapper: ImageMapper, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Build a loader of stacked batches with every image once, in order, shared between the processes."""
    return build_detection_test_loader(
        dataset, mapper=mapper, batch_size=batch_size, num_workers=num_workers, collate_fn=default_collate
    )
