"""Small cascade Mask R-CNN on generated shapes, operator `lesa`."""

from .common.cascade_mask_rcnn import model
from .common.quickstart import dataloader, lr_multiplier, optimizer, train
from .common.small import shrink

shrink(model)
model.backbone.bottom_up.operator = "lesa"
train.output_dir = "./output/quickstart_cascade"
