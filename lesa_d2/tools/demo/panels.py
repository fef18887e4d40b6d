"""One picture a model, side by side under their titles, as the paper's Figures 1, 2 and 4."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances
from omegaconf import DictConfig

from ...config.files import config_files
from ...engine import last_checkpoint, load_any_config
from ...errors import CheckpointError, ConfigError
from ...predictor import Predictor, trained_weights
from ..reports.drawing import add_title, draw_detections

GAP = 6  # white pixels between panels


@dataclass(frozen=True)
class DemoModel:
    """A predictor, and the name that it goes by."""

    title: str
    predictor: Predictor


@dataclass(frozen=True)
class Panels:
    """An image and what each model found in it.

    Attributes:
        image: (H, W, 3) uint8, BGR.
        detections: of every model in order, on the CPU, with all scores that the model gives.
    """

    image: np.ndarray
    detections: list[Instances]

    def draw(self, models: Sequence[DemoModel], threshold: float) -> np.ndarray:
        """(h, w, 3) uint8, BGR: a panel a model, titled where there are several.

        Args:
            models: those of ``detections``.
            threshold: detections with a lower score are left out.
        """
        panels = [
            draw_detections(self.image, confident(found, threshold), model.predictor.class_names)
            for found, model in zip(self.detections, models, strict=True)
        ]
        if len(panels) == 1:
            return panels[0]
        titled = [add_title(panel, model.title) for panel, model in zip(panels, models, strict=True)]
        gap = np.full((titled[0].shape[0], GAP, 3), 255, np.uint8)
        parts = [part for panel in titled for part in (gap, panel)]
        return np.concatenate(parts[1:], axis=1)


def confident(detections: Instances, threshold: float) -> Instances:
    """Those with at least this score."""
    return detections[detections.scores >= threshold]


def load_models(
    files: Sequence[str],
    overrides: Sequence[str] = (),
    weights: Sequence[str | None] = (),
    titles: Sequence[str] = (),
    device: str | None = None,
    amp: str | None = None,
) -> list[DemoModel]:
    """A predictor for each config file.

    Args:
        files: LazyConfig or yacs, in any mixture.
        overrides: ``key=value`` of every config.
        weights, titles: none, or one a file; a title is else the name of the config, or of its run's folder.
        device, amp: of :class:`Predictor`.

    Raises:
        ConfigError: another number of weights or titles than files, or a config that cannot be used.
        CheckpointError: no weights, or others than the model's.
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
    """The trained weights of a config file: beside a run's config.yaml, of the config, or of the model zoo.

    Raises:
        CheckpointError: there are none; says how to get them.
    """
    name = Path(file).stem
    beside = last_checkpoint(Path(file).parent) if name == "config" else ""  # the folder may have moved
    if beside:
        return beside
    try:
        found = trained_weights(cfg)
    except CheckpointError:
        if name not in config_files():
            raise
        found = ""
    if found:
        return found
    if name in config_files():
        return f"lesa://{name}.pth"
    raise CheckpointError(
        f"{file}: no trained weights: give --weights FILE.pth, or the config.yaml of a run, whose last "
        "checkpoint is taken"
    )


def default_titles(files: Sequence[str]) -> list[str]:
    """A config's name; of a run's config.yaml the folder's; numbered where they are the same."""
    names = [path.parent.name if path.stem == "config" else path.stem for path in map(Path, files)]
    total, seen = Counter(names), Counter[str]()
    titles = []
    for name in names:
        seen[name] += 1
        titles.append(f"{name} ({seen[name]})" if total[name] > 1 else name)
    return titles


def predict(models: Sequence[DemoModel], images: Iterable[np.ndarray]) -> Iterator[Panels]:
    """What every model finds in each of the images, BGR, one image at a time."""
    for image in images:
        found = [model.predictor(image)["instances"].to("cpu") for model in models]  # type: ignore[call-overload]
        yield Panels(image, found)
