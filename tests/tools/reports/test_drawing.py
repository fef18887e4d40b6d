"""Labels of drawings."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from lesa_d2.tools.reports.drawing import ClassVisualizer, class_colours

NAMES = ["person", "traffic light"]
SIZE = (480, 640)


def crowd(number):
    """Detections, of which the surest is the first."""
    rng = np.random.default_rng(0)
    centres, sides = rng.uniform(30, [600, 450], (number, 2)), rng.uniform(25, 110, (number, 2))
    boxes = torch.tensor(np.concatenate([centres - sides / 2, centres + sides / 2], 1), dtype=torch.float32)
    scores = torch.linspace(0.99, 0.5, number)
    found = Instances(SIZE, pred_boxes=Boxes(boxes), scores=scores, pred_classes=torch.arange(number) % 2)
    return found[torch.randperm(number)]


def canvas():
    return ClassVisualizer(np.full((*SIZE, 3), 128, np.uint8), NAMES)


def labels(drawn):
    """Texts and their rectangles (x0, y0, x1, y1) in pixels of the drawing."""
    renderer = drawn.output.canvas.get_renderer()
    return {t.get_text(): t.get_window_extent(renderer).extents for t in drawn.output.ax.texts}


@pytest.mark.parametrize("number", [3, 100])
def test_labels_cover_neither_each_other_nor_lie_outside(number):
    drawn = canvas()
    drawn.draw_detections(crowd(number))
    found = labels(drawn)
    assert "person 99%" in found  # the surest
    assert len(found) == 3 if number == 3 else 30 < len(found) < 100
    extents = np.array(list(found.values()))
    assert (extents >= 0).all()
    assert (extents <= np.tile([640, 480], 2)).all()
    starts, ends = extents[:, None, :2], extents[None, :, 2:]
    overlap = (starts < ends).all(2) & (starts < ends).all(2).T
    assert not (overlap & ~np.eye(len(extents), dtype=bool)).any()


def test_truth_too():
    drawn = canvas()
    one = {"bbox": [10, 20, 60, 70], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    drawn.draw_truth({"annotations": [one] * 9})
    assert len(drawn.output.ax.texts) == 4  # inside, above, below and beside


@pytest.mark.parametrize("is_truth", [True, False])
def test_the_picture_shows_through_masks(is_truth):
    drawn = canvas()
    if is_truth:
        square = {"bbox": [100, 100, 200, 200], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
        outline = [100, 100, 300, 100, 300, 300, 100, 300]
        picture = drawn.draw_truth({"annotations": [{**square, "segmentation": [outline]}]})
    else:
        masks = torch.zeros(1, *SIZE, dtype=torch.bool)
        masks[:, 100:300, 100:300] = True
        box = Boxes(torch.tensor([[100.0, 100, 300, 300]]))
        found = Instances(
            SIZE, pred_boxes=box, scores=torch.ones(1), pred_classes=torch.ones(1, dtype=torch.long)
        )
        found.pred_masks = masks
        picture = drawn.draw_detections(found)
    colour = np.array(class_colours(2)[1])
    inside, contour = picture[250, 250].astype(int), picture[200, 96:104].astype(int)
    np.testing.assert_allclose(inside, 0.8 * 128 + 0.2 * colour, atol=2)
    assert np.abs(contour - colour).sum(1).min() < 90
