"""The pictures of several models side by side under their titles, as in the paper's Figures 1, 2 and 4."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig

from ...config.files import config_files
from ...engine import last_checkpoint, load_any_config
from ...errors import CheckpointError, ConfigError
from ...predictor import Predictor, trained_weights
from ..reports.drawing import add_title, draw_detections

GAP = 6  # white pixels between panels


@dataclass(frozen=True)
class DemoModel:
    """Hold a predictor and its title."""

    title: str
    predictor: Predictor


@dataclass(frozen=True)
class Panels:
    """Hold an image and the predictions of each model.

    Attributes:
        image: (H, W, 3) uint8, BGR.
        detections: of every model in order, on the CPU, with every score that the model gives; empty for a
            model that only labels pixels.
        labels: of every model in order, the class of every pixel (H, W); None for a model that labels no pixels.
    """

    image: np.ndarray
    detections: list[Instances]
    labels: list[np.ndarray | None] = field(default_factory=list)

    def draw(self, models: Sequence[DemoModel], threshold: float, original: bool = False) -> np.ndarray:
        """Draw one panel for each model, with titles if there are several panels; return (h, w, 3) uint8, BGR.

        Args:
            models: the models of ``detections``, in the same order.
            threshold: detections with a lower score are left out.
            original: whether the image itself is a panel too, the first.
        """
        titles = [model.title for model in models]
        panels = [
            draw_detections(
                self.image,
                confident(detections, threshold),
                model.predictor.class_names,
                labels,
                model.predictor.stuff_names if labels is not None else (),
            )
            for detections, labels, model in zip(
                self.detections, self.labels or [None] * len(models), models, strict=True
            )
        ]
        if original:
            height, width = panels[0].shape[:2]
            panels.insert(0, cv2.resize(self.image, (width, height)))
            titles.insert(0, "image")
        if len(panels) == 1:
            return panels[0]
        titled = [add_title(panel, title) for panel, title in zip(panels, titles, strict=True)]
        gap = np.full((titled[0].shape[0], GAP, 3), 255, np.uint8)
        parts = [part for panel in titled for part in (gap, panel)]
        return np.concatenate(parts[1:], axis=1)


def confident(detections: Instances, threshold: float) -> Instances:
    """Return the detections with at least this score."""
    return detections[detections.scores >= threshold]


def load_models(
    files: Sequence[str],
    overrides: Sequence[str] = (),
    weights: Sequence[str | None] = (),
    titles: Sequence[str] = (),
    device: str | None = None,
    amp: str | None = None,
) -> list[DemoModel]:
    """Build a predictor for each config file.

    Args:
        files: LazyConfigs and yacs configs.
        overrides: ``key=value`` for every config.
        weights: a checkpoint for each file; without them, those of :func:`find_weights`.
        titles: a title for each file; without them, the name of the config or of the folder of its run.
        device: as for :class:`Predictor`.
        amp: as for :class:`Predictor`.

    Raises:
        ConfigError: the number of weights or titles is not that of the files, or a config cannot be used.
        CheckpointError: there are no weights, or they are not of this model.
    """
    for name, given in (("weights", weights), ("titles", titles)):
        if given and len(given) != len(files):
            raise ConfigError(
                f"--{name}: expected one for each of the {len(files)} configs, got {len(given)}"
            )
    titles = titles or default_titles(files)
    if len(set(titles)) < len(titles):
        raise ConfigError(f"--titles must differ from each other, got {list(titles)}")
    models = []
    for file, path, title in zip(files, weights or [None] * len(files), titles, strict=True):
        cfg = load_any_config(file, overrides)
        predictor = Predictor(cfg, path or find_weights(file, cfg), device=device, amp=amp)
        models.append(DemoModel(title, predictor))
    return models


def find_weights(file: str, cfg: DictConfig | CfgNode) -> str:
    """Return the trained weights of a config file: beside a run's config.yaml, of the config, or of the model zoo.

    Raises:
        CheckpointError: there are none; the message says how to get them.
    """
    name = Path(file).stem
    # looked for beside the config, as the folder of the run may have been moved
    if name == "config" and (checkpoint := last_checkpoint(Path(file).parent)):
        return checkpoint
    try:
        weights = trained_weights(cfg)
    except CheckpointError:
        if name not in config_files():
            raise
        weights = ""
    if weights:
        return weights
    if name in config_files():
        return f"lesa://{name}.pth"
    raise CheckpointError(
        f"{file}: no trained weights: give --weights FILE.pth, or the config.yaml of a run, whose last "
        "checkpoint is taken"
    )


def default_titles(files: Sequence[str]) -> list[str]:
    """Return the name of each config, or for the config.yaml of a run that of its folder; equal names get numbers."""
    names = [path.parent.name if path.stem == "config" else path.stem for path in map(Path, files)]
    total, seen = Counter(names), Counter[str]()
    titles = []
    for name in names:
        seen[name] += 1
        titles.append(f"{name} ({seen[name]})" if total[name] > 1 else name)
    return titles


def predict(models: Sequence[DemoModel], images: Iterable[np.ndarray]) -> Iterator[Panels]:
    """Yield the predictions of every model for each of the images, BGR, one image at a time."""
    for image in images:
        outputs: list[Any] = [model.predictor(image) for model in models]
        detections = [_instances(output, image) for output in outputs]
        yield Panels(image, detections, [_labels(output) for output in outputs])


def _instances(output: dict[str, Any], image: np.ndarray) -> Instances:
    """Return the detections of an output; none where the model only labels pixels."""
    if "instances" in output:
        return output["instances"].to("cpu")
    none = torch.zeros(0)
    return Instances(
        image.shape[:2], pred_boxes=Boxes(none.reshape(0, 4)), scores=none, pred_classes=none.long()
    )


def _labels(output: dict[str, Any]) -> np.ndarray | None:
    """Return the class of every pixel (H, W); None where the model labels no pixels."""
    return output["sem_seg"].argmax(0).cpu().numpy() if "sem_seg" in output else None
