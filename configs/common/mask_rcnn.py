"""Mask R-CNN with FPN (detectron2's model zoo) on a LESA backbone.

These settings of the zoo are the released configuration's: RPN with L1, 2000 proposals per level before NMS and 1000
after it (1000 and 1000 in tests), class-specific boxes with L1, score threshold 0.05, NMS 0.5, 100 detections.
What differs: projects/LESA/README.md.
"""

from lesa_d2.modeling import LesaRCNN

from .detectron2_models import on_lesa

model = on_lesa("mask_rcnn_fpn")
model.update(_target_=LesaRCNN, init="detectron2")  # "released": weights start as in the released code
