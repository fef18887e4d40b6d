"""What is measured of pre-training: steps of a classifier, and how fast pictures are read."""

from pathlib import Path

import numpy as np
import torch
from detectron2.config import LazyConfig, instantiate
from PIL import Image

from ...data.folder import SPLITS
from ...data.shapes import draw_scene
from ...engine.classification import use_image_folder
from .cases import Place, make_step
from .measure import Step


def classifier(mode: str, *, config_file: str, images: int, place: Place) -> Step:
    """A step of pre-training a classifier: loss and gradients of ``images`` pictures of the config's size."""
    cfg = LazyConfig.load(config_file)
    model = instantiate(cfg.model).to(place.device).train(mode == "training")
    side = cfg.model.backbone.image_size
    image = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8)
    batch = {"image": image, "label": torch.zeros(images, dtype=torch.long)}
    return make_step(mode, lambda: model(batch), place, list(model.parameters()))


def image_loader(mode: str, *, config_file: str, folder: str, images: int, workers: int) -> Step:
    """Reads ``images`` pictures of ``folder/train`` as pre-training does, in batches of a quarter of them."""
    cfg = LazyConfig.load(config_file)
    use_image_folder(cfg, folder)
    cfg.dataloader.train.update(total_batch_size=max(1, images // 4), num_workers=workers)
    batches = iter(instantiate(cfg.dataloader.train))

    def read() -> None:
        for _ in range(4):
            next(batches)

    return read


def photographs(folder: Path, count: int = 256) -> Path:
    """``count`` generated JPEGs of 500×375 pixels, the usual size of ImageNet's, as an ImageFolder tree."""
    for index in range(count):
        scene = draw_scene(np.random.default_rng([0, index]), 500)
        for split in SPLITS:
            file = folder / split / "pictures" / f"{index}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.image[:375]).save(file, quality=95)
    return folder
