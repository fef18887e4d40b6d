"""Mask R-CNN, WideResNet-50-2 with LESA, COCO, 12 epochs at 1024×1024 (paper, Tables 3 and 4)."""

from .common.coco import dataloader
from .common.mask_rcnn import model
from .common.schedule import lr_multiplier, optimizer, train

model.backbone.bottom_up.operator = "lesa"
model.backbone.bottom_up.width_multiplier = 2
train.init_checkpoint = "lesa://imagenet_lesa_wr50.pth"
train.output_dir = "./output/mask_rcnn_lesa_wr50"
