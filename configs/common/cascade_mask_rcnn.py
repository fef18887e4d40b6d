"""Cascade Mask R-CNN with FPN, all of it detectron2's own, on a LESA backbone."""

from detectron2 import model_zoo

from .backbone import bottom_up, preprocessing

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
model.backbone.bottom_up = bottom_up
model.update(preprocessing)
