"""The detections in all pictures together: a table of their numbers, and a file with every detection."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from tabulate import tabulate

from ...storage import write_text
from ..reports.drawing import named_classes
from .panels import DemoModel, Panels, confident


class DetectionSummary:
    """Collect the detections of several models over pictures.

    Args:
        models: the models whose detections are given to :meth:`add`.
        threshold: detections with a lower score are not counted.
    """

    def __init__(self, models: Sequence[DemoModel], threshold: float) -> None:
        self.models = models
        self.threshold = threshold
        self.pictures: list[dict[str, Any]] = []
        self._counts = [Counter[str]() for _ in models]
        self._pictures_with_any = [0 for _ in models]
        self._highest = [0.0 for _ in models]
        self._pixels = [Counter[int]() for _ in models]

    def add(self, name: str, panels: Panels) -> None:
        """Add the detections of one picture."""
        height, width = panels.image.shape[:2]
        entry: dict[str, Any] = {"file": name, "width": width, "height": height, "detections": {}}
        for index, (model, detections) in enumerate(zip(self.models, panels.detections, strict=True)):
            names = named_classes(model.predictor.class_names, detections)
            counted = confident(detections, self.threshold)
            self._counts[index].update(names[c] for c in counted.pred_classes.tolist())
            self._pictures_with_any[index] += len(counted) > 0
            self._highest[index] = max([self._highest[index], *detections.scores.tolist()])
            entry["detections"][model.title] = as_dicts(counted, names)
        for pixels, labels in zip(self._pixels, panels.labels, strict=False):
            if labels is not None:
                pixels.update(dict(zip(*np.unique(labels, return_counts=True), strict=True)))
        self.pictures.append(entry)

    def table(self) -> str:
        """Return the numbers of detections by class and model, and the shares of pixels by class.

        If a model has no detections, its highest score is given.
        """
        total = len(self.pictures)
        headers = ["class", *(model.title for model in self.models)]
        classes = sorted({name for counts in self._counts for name in counts})
        rows: list[list[Any]] = [[name, *(counts[name] for counts in self._counts)] for name in classes]
        rows.append(["all", *(counts.total() for counts in self._counts)])
        rows.append(["pictures with any", *(f"{number} of {total}" for number in self._pictures_with_any)])
        lines = [tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)]
        for model, pixels in zip(self.models, self._pixels, strict=True):
            if pixels:
                lines.append(f"{model.title}: share of pixels: {shares(pixels, model.predictor.stuff_names)}")
        for model, counts, highest, pixels in zip(
            self.models, self._counts, self._highest, self._pixels, strict=True
        ):
            if total and not counts and (highest or not pixels):
                lines.append(
                    f"{model.title}: no detection reaches the score {self.threshold:g}; the highest is "
                    f"{highest:.3f}. Lower --confidence-threshold, or train longer."
                )
        return "\n".join(lines)

    def save(self, file: Path) -> Path:
        """Write all detections as JSON: boxes [x, y, width, height] in pixels, masks as COCO's RLE; return the file."""
        content = {"threshold": self.threshold, "pictures": self.pictures}
        write_text(file, json.dumps(content) + "\n")
        return file


def shares(pixels: Counter[int], names: Sequence[str]) -> str:
    """Return the classes of pixels with their shares, the largest share first."""
    total = pixels.total()
    return ", ".join(
        f"{names[index] if index < len(names) else f'class {index}'} {number / total:.1%}"
        for index, number in pixels.most_common()
    )


def as_dicts(detections: Instances, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return detections in COCO's result format, with the name of the class instead of the ids."""
    return [
        {
            "class": class_names[item["category_id"]],
            **{key: item[key] for key in ("score", "bbox", "segmentation") if key in item},
        }
        for item in instances_to_coco_json(detections, img_id=0)
    ]
