"""A region proposal network whose anchors across the border take no part in matching."""

from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor


class InsideRPN(RPN):
    """RPN that matches objects with anchors inside the image alone, as the released HTC does.

    detectron2 ignores anchors that cross the border by more than ``anchor_boundary_thresh`` only after
    matching, so that an object whose best anchor is one of them may be left without any.
    """

    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels (A,), -1 ignored, 0 background, 1 object, and matched boxes (A, 4), for each image."""
        if self.anchor_boundary_thresh < 0:
            return super().label_and_sample_anchors(anchors, gt_instances)
        everything = Boxes.cat(anchors)
        all_labels, all_boxes = [], []
        for truth in gt_instances:
            inside = everything.inside_box(truth.image_size, self.anchor_boundary_thresh)
            (sampled,), (matched,) = super().label_and_sample_anchors([everything[inside]], [truth])
            labels = sampled.new_full((len(everything),), -1)
            boxes = matched.new_zeros(len(everything), 4)
            labels[inside], boxes[inside] = sampled, matched
            all_labels.append(labels)
            all_boxes.append(boxes)
        return all_labels, all_boxes
