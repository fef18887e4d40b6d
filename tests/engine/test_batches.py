"""Batches on their way to the device."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

from lesa_d2.engine.batches import map_inputs, on_device


def sample():
    objects = Instances(
        (4, 6),
        gt_boxes=Boxes(torch.ones(2, 4)),
        gt_classes=torch.tensor([0, 1]),
        gt_masks=BitMasks(torch.ones(2, 4, 6)),
        gt_keypoints=Keypoints(torch.ones(2, 3, 3)),
    )
    return {
        "image": torch.ones(3, 4, 6, dtype=torch.uint8),
        "instances": objects,
        "sem_seg": torch.ones(4, 6),
        "file_name": "a.jpg",
        "height": 4,
    }


def test_on_the_cpu_a_batch_stays_as_it_is():
    batch = [sample()]
    assert on_device(batch, torch.device("cpu")) is batch


def test_images_and_objects_are_moved_and_the_batch_is_kept():
    batch, seen = [sample(), sample()], []

    def double(tensor):
        seen.append(tensor)
        return tensor + tensor

    moved = map_inputs(batch, double)
    assert len(seen) == 2 * 5  # image, boxes, classes, masks, keypoints
    for before, after in zip(batch, moved, strict=True):
        objects = after["instances"]
        assert type(objects) is Instances
        assert objects.image_size == (4, 6)
        kinds = {name: type(field) for name, field in objects.get_fields().items()}
        assert kinds == {name: type(field) for name, field in before["instances"].get_fields().items()}
        assert objects.gt_boxes.tensor.unique().tolist() == [2]
        assert objects.gt_classes.tolist() == [0, 2]
        assert objects.gt_masks.image_size == (4, 6)
        assert after["image"].unique().tolist() == [2]
        assert after["sem_seg"] is before["sem_seg"]
        assert (after["file_name"], after["height"]) == ("a.jpg", 4)
        assert before["instances"].gt_boxes.tensor.unique().tolist() == [1]


def test_polygons_stay_on_the_host():
    polygons = PolygonMasks([[np.ones(6)]])
    batch = [{"instances": Instances((4, 4), gt_masks=polygons)}]
    moved = map_inputs(batch, lambda tensor: tensor)
    assert moved[0]["instances"].gt_masks is polygons


def test_batches_of_classifiers_and_of_others():
    batch = {"image": torch.zeros(2, 3, 4, 4), "label": torch.zeros(2)}
    assert all(value.min() == 1 for value in map_inputs(batch, lambda tensor: tensor + 1).values())
    for other in (torch.ones(2), "text", None):
        assert map_inputs(other, lambda tensor: tensor + 1) is other
