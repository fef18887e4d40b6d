"""Mask R-CNN with FPN (detectron2's model zoo) on a LESA backbone.

The zoo's settings are the paper's: RPN with L1, 2000 anchors a level and 1000 proposals (1000 and 1000 in
tests), class-specific boxes with L1, score threshold 0.05, NMS 0.5, 100 detections.
"""

from detectron2 import model_zoo

from .backbone import bottom_up, preprocessing

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up = bottom_up
model.update(preprocessing)
