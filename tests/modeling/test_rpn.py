"""Anchors that cross the border."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou

from lesa_d2.modeling import InsideRPN

SIZE = (100, 100)
ANCHORS = torch.tensor(
    [
        [-20.0, 0, 40, 60],  # best for the object at the border, but crosses it
        [0, 0, 70, 70],  # its best inside, below the threshold of 0.7
        [30, 30, 90, 90],
        [60, 60, 120, 120],
    ]
)
OBJECT = torch.tensor([[0.0, 0, 42, 60]])


def labels(truth, threshold=0):
    torch.manual_seed(0)
    rpn = InsideRPN(
        in_features=["p2"],
        head=torch.nn.Identity(),
        anchor_generator=torch.nn.Identity(),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=None,
        batch_size_per_image=16,
        positive_fraction=0.5,
        pre_nms_topk=(10, 10),
        post_nms_topk=(10, 10),
        anchor_boundary_thresh=threshold,
    )
    instances = [Instances(SIZE, gt_boxes=Boxes(boxes)) for boxes in truth]
    return rpn.label_and_sample_anchors([Boxes(ANCHORS[:2]), Boxes(ANCHORS[2:])], instances)


def test_an_object_at_the_border_gets_the_best_anchor_inside():
    iou = pairwise_iou(Boxes(OBJECT), Boxes(ANCHORS))[0]
    assert iou.argmax() == 0
    assert 0.5 < iou[1] < 0.7
    (found, nothing), (boxes, _) = labels([OBJECT, OBJECT[:0]])
    assert found.tolist() == [-1, 1, 0, -1]
    torch.testing.assert_close(boxes[1:2], OBJECT)
    assert nothing.tolist() == [-1, 0, 0, -1]  # an image without objects


def test_a_negative_threshold_keeps_all():
    (found,), _ = labels([OBJECT], threshold=-1)
    assert found.tolist() == [1, -1, 0, 0]


@pytest.mark.parametrize("size", [(30, 30), (1, 1)])
def test_an_image_that_no_anchor_fits_in(size, monkeypatch):
    monkeypatch.setattr("test_rpn.SIZE", size)
    (found,), (boxes,) = labels([torch.tensor([[0.0, 0, 1, 1]])])
    assert found.tolist() == [-1] * 4
    assert boxes.shape == (4, 4)
