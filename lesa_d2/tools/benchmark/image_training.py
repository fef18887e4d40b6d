"""How fast pictures are read for pre-training."""

from pathlib import Path

import numpy as np
from PIL import Image

from ...config import load_config
from ...data.folder import SPLITS
from ...data.loader import build_loader
from ...data.shapes import draw_scene
from ...engine.classification import use_image_folder
from .measure import Step


def image_loader(mode: str, *, config_file: str, folder: str, images: int, workers: int) -> Step:
    """Read ``images`` pictures of ``folder/train`` as pre-training does, in batches of a quarter of them."""
    cfg = load_config(config_file)
    use_image_folder(cfg, folder)
    cfg.dataloader.train.update(total_batch_size=max(1, images // 4), num_workers=workers)
    batches = iter(build_loader(cfg.dataloader.train))

    def read() -> None:
        for _ in range(4):
            next(batches)

    return read


def photographs(folder: Path, count: int = 256) -> Path:
    """Write ``count`` generated JPEGs of 500×375 pixels, the usual size of ImageNet's, as an ImageFolder tree."""
    for index in range(count):
        scene = draw_scene(np.random.default_rng([0, index]), 500)
        for split in SPLITS:
            file = folder / split / "pictures" / f"{index}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.image[:375]).save(file, quality=95)
    return folder
