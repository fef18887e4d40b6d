"""Generate images to classify, of one shape on one texture; the pair of both is the class.

The style is that of the generated detection data, so that a detector of these can start from the classifier.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ConfigError
from ..storage import write_text
from .folder import SPLITS
from .generated import Info, generate_once
from .images import ImageRecords, image_folder
from .progress import progress
from .shapes import SHAPE_CLASSES, STUFF_CLASSES, check_arguments, draw_object, make_info

INFO_FILE = "dataset.json"
TEXTURES = ("gradient", "stripes", "speckle")  # those that can be told apart in small images
IMAGE_CLASSES = [f"{shape}_on_{texture}" for shape in SHAPE_CLASSES for texture in TEXTURES]
VAL_SHARE = 0.08  # size of val over that of train


def generate_shape_images(directory: str | Path, *, num_images: int, image_size: int, seed: int) -> Path:
    """Write ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, and return their folder; an equal set is kept.

    Args:
        directory: the folder to make.
        num_images: of ``train``, at least 150; ``val`` gets 8% of that; all 12 classes have equal shares.
        image_size: side of the square images in pixels, at least 32.
        seed: non-negative; another seed gives other images.

    Raises:
        ConfigError: arguments out of range.
        DatasetError: the folder holds something else.
    """
    check_arguments(num_images, image_size, seed)
    if num_images * VAL_SHARE < len(IMAGE_CLASSES):
        least = math.ceil(len(IMAGE_CLASSES) / VAL_SHARE)
        raise ConfigError(
            f"num_images must be at least {least}, so that val has an image of each class, got {num_images}"
        )
    counts = {"train": num_images, "val": round(num_images * VAL_SHARE)}
    info = {**make_info("LESA-D2 generated images of shapes", num_images, image_size, seed), **counts}
    return generate_once(directory, info, lambda draft: _write(draft, info, counts), _read_info)


def shape_images(split: str, num_images: int, image_size: int, seed: int) -> ImageRecords:
    """Return a split of such a set under ``$DETECTRON2_DATASETS`` (default ``./datasets``), generated if it is missing.

    A LazyConfig node: ``dataset=L(shape_images)(split="train", num_images=12000, image_size=64, seed=3)``.
    """
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser() / "shape_images"
    label = f"{num_images}x{image_size}px_seed{seed}"
    directory = generate_shape_images(root / label, num_images=num_images, image_size=image_size, seed=seed)
    return image_folder(str(directory), split)


def _write(directory: Path, info: Info, counts: dict[str, int]) -> None:
    for number, split in enumerate(SPLITS):
        for name in IMAGE_CLASSES:
            (directory / split / name).mkdir(parents=True)
        for index in progress(range(counts[split]), f"Generating {split}"):
            label = index % len(IMAGE_CLASSES)
            shape, texture = divmod(label, len(TEXTURES))
            rng = np.random.default_rng([info["seed"], number, index])
            image = draw_object(rng, info["image_size"], shape, STUFF_CLASSES.index(TEXTURES[texture]))
            file = directory / split / IMAGE_CLASSES[label] / f"{index:06d}.jpg"
            Image.fromarray(image).save(file, quality=95)
    write_text(directory / INFO_FILE, json.dumps(info) + "\n")


def _read_info(directory: Path) -> Any:
    file = directory / INFO_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else f"no {INFO_FILE}"
