"""Cascade Mask R-CNN with FPN, all of it detectron2's own, on a LESA backbone."""

from .detectron2_models import on_lesa

model = on_lesa("cascade_rcnn")
