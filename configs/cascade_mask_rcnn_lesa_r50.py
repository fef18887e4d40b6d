"""Cascade Mask R-CNN, ResNet-50 with LESA, COCO, 12 epochs at 1024×1024 (not in the paper)."""

from .common.cascade_mask_rcnn import model
from .common.coco import dataloader
from .common.schedule import lr_multiplier, optimizer, train

model.backbone.bottom_up.update(operator="lesa", width_multiplier=1)
train.init_checkpoint = "lesa://imagenet_lesa_r50.pth"
train.output_dir = "./output/cascade_mask_rcnn_lesa_r50"
