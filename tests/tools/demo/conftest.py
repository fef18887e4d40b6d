"""Models for the demo that find what a test wants them to find."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from lesa_d2.tools.demo.panels import DemoModel, Panels


class FoundModel:
    """Stands for a predictor; its class names are all that drawing asks for."""

    def __init__(self, *class_names):
        self.class_names = list(class_names)


def detections(size, boxes, scores, classes, masks=True):
    found = Instances(size)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.tensor(classes, dtype=torch.long)
    if masks:
        found.pred_masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(found.pred_masks, boxes, strict=True):
            mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    return found


@pytest.fixture
def models():
    return [
        DemoModel("LESA", FoundModel("nut", "fig")),
        DemoModel("convolution", FoundModel("fig", "</script>")),
    ]


@pytest.fixture
def panels():
    """A grey image of 60×90 pixels with two models' detections."""
    size = (60, 90)
    first = detections(size, [[10, 10, 30, 40], [40, 5, 80, 50]], [0.9, 0.3], [0, 1])
    second = detections(size, [[12, 8, 33, 41]], [0.6], [1])
    return Panels(np.full((*size, 3), 128, np.uint8), [first, second])


@pytest.fixture
def make_detections():
    return detections
