"""Objects are drawn whatever the others of their picture lack."""

import numpy as np
import pytest
from detectron2.structures import BoxMode

from lesa_d2.tools.reports.drawing import ClassVisualizer


@pytest.mark.parametrize("key", ["keypoints", "segmentation"])
@pytest.mark.parametrize("having", [0, 1, 2])
def test_objects_that_differ_in_what_they_have(key, having):
    value = {"keypoints": [3, 4, 2, 5, 6, 1], "segmentation": [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0]]}[key]
    plain = {"bbox": [2, 3, 10, 6], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    objects = [plain | ({key: value} if index < having else {}) for index in range(2)]
    canvas = ClassVisualizer(np.full((40, 60, 3), 128, np.uint8), ["nut"], 60)
    assert canvas.draw_truth({"annotations": objects}).std() > 1
