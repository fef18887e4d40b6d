"""Pictures to classify: a folder a class, as torchvision's ImageFolder reads them, and their loaders.

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
        DatasetError: no such folder, a class without pictures, or another class than in the other split.
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
            f"no folder {folder}; expected pictures as DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg: give "
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
    except FileNotFoundError as error:  # classes without a picture
        raise DatasetError(f"{folder}: {error}") from error
    return tuple({"file_name": name, "label": label} for name, label in found.samples), tuple(found.classes)


def _classes(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder) if entry.is_dir()}


class ImageMapper:
    """Reads a record's picture: {"file_name", "label"} -> {"image": (3, H, W) uint8, "label": int}.

    Args:
        transform: of the uint8 tensor; torchvision's ``transforms.v2``.
        image_format: "RGB" or "BGR", the order of the channels.

    Raises:
        DatasetError: the file is no picture; names it.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], image_format: str = "RGB") -> None:
        self.transform = transform
        self.image_format = image_format

    def __call__(self, record: Record) -> dict[str, Any]:
        image = self.transform(read_image(record["file_name"]))
        return {"image": image if self.image_format == "RGB" else image.flip(0), "label": record["label"]}


def read_image(file: str) -> Tensor:
    """(3, H, W) uint8 RGB, turned upright as its EXIF tag says; the first picture of an animation.

    torchvision decodes the usual formats, in half of PIL's time, and PIL all others.

    Raises:
        DatasetError: neither can read the file.
    """
    try:
        with PathManager.open(file, "rb") as stream:
            data = stream.read()
        try:
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            image = decode_image(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        except (RuntimeError, ValueError):  # another format, or damaged: PIL says which
            picture = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
            image = v2.functional.pil_to_tensor(picture)
    except UnidentifiedImageError as error:
        raise DatasetError(
            f"{file} cannot be read as a picture (no known format); mend or remove it"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for broken files
        raise DatasetError(f"{file} cannot be read as a picture ({error}); mend or remove it") from error
    first = image if image.dim() == 3 else image[0]
    return v2.functional.to_dtype(first, torch.uint8, scale=True)  # some have 16 bits


def build_image_test_loader(
    dataset: ImageRecords, *, mapper: ImageMapper, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Every picture once, in order, shared between the processes; stacked batches."""
    return build_detection_test_loader(
        dataset, mapper=mapper, batch_size=batch_size, num_workers=num_workers, collate_fn=default_collate
    )
