"""The predictions on a folder as one HTML file, which any browser shows and filters without a server."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.structures import Instances

from ...storage import write_text
from ..reports.drawing import class_colours, named_classes
from .panels import DemoModel, Panels, confident

TEMPLATE = Path(__file__).with_name("report.html")
LEAST_SCORE = 0.05  # of the detections in the page; its reader chooses the score from which they are shown
MOST_PIXELS = 960  # of the longer side of a picture in the page
QUALITY = 85  # of the JPEG of a picture


class HtmlReport:
    """Collect pictures and detections, and write the page.

    Args:
        title: heading of the page.
        models: the models whose detections are given to :meth:`add`; they are shown side by side.
        threshold: the score that the page starts with; its reader can lower it to ``LEAST_SCORE``.
    """

    def __init__(self, title: str, models: Sequence[DemoModel], threshold: float) -> None:
        self.title = title
        self.models = models
        self.threshold = threshold
        self.least_score = min(LEAST_SCORE, threshold)
        # of all models together, by name; the first model's keep the colours of its drawn pictures
        self.classes = list(dict.fromkeys(name for m in models for name in m.predictor.class_names))
        self._pictures: list[dict[str, Any]] = []

    def add(self, name: str, panels: Panels) -> None:
        """Add one picture under a name."""
        height, width = panels.image.shape[:2]
        shrink = min(1.0, MOST_PIXELS / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        picture = cv2.resize(panels.image, size, interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        self._pictures.append(
            {
                "name": name,
                "width": width,
                "height": height,
                "jpeg": base64.b64encode(jpeg).decode("ascii"),
                "panels": [
                    self._shapes(model, confident(detections, self.least_score))
                    for model, detections in zip(self.models, panels.detections, strict=True)
                ],
            }
        )

    def _shapes(self, model: DemoModel, detections: Instances) -> list[dict[str, Any]]:
        """Return class, score, box and outline of each detection, the largest first, so that none is hidden."""
        names = named_classes(model.predictor.class_names, detections)
        order = detections.pred_boxes.area().argsort(descending=True)
        detections = detections[order]
        outlines = _outlines(detections)
        return [
            {
                "class": self._class_index(names[index]),
                "score": round(score, 4),
                "box": [round(side, 1) for side in box],
                "outline": outline,
            }
            for index, score, box, outline in zip(
                detections.pred_classes.tolist(),
                detections.scores.tolist(),
                detections.pred_boxes.tensor.tolist(),
                outlines,
                strict=True,
            )
        ]

    def _class_index(self, name: str) -> int:
        if name not in self.classes:
            self.classes.append(name)
        return self.classes.index(name)

    def save(self, file: Path) -> Path:
        """Write the page, and return its file."""
        data = {
            "title": self.title,
            "models": [model.title for model in self.models],
            "classes": self.classes,
            "colours": ["rgb({}, {}, {})".format(*rgb) for rgb in class_colours(len(self.classes))],
            "threshold": self.threshold,
            "leastScore": self.least_score,
            "pictures": self._pictures,
        }
        # "</script>" in a name must not end the script that holds the data
        text = json.dumps(data).replace("<", "\\u003c")
        page = TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", text)
        write_text(file, page)
        return file


def _outlines(detections: Instances) -> list[str]:
    """Return the masks as SVG paths in pixels of the image; empty texts if there are no masks."""
    if not detections.has("pred_masks"):
        return [""] * len(detections)
    return [_outline(mask) for mask in np.asarray(detections.pred_masks).astype(np.uint8)]


def _outline(mask: np.ndarray) -> str:
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    tolerance = max(mask.shape) / 1500  # pixels; too few to be visible
    paths = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, tolerance, closed=True).reshape(-1, 2) + 0.5
        if len(points) > 2:
            paths.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z")
    return "".join(paths)
