"""Mask R-CNN, ResNet-50 with convolutions, COCO, 12 epochs at 1024×1024 (paper, Table 3)."""

from .common.coco import dataloader
from .common.mask_rcnn import model
from .common.schedule import lr_multiplier, optimizer, train

model.backbone.bottom_up.operator = "conv"
train.init_checkpoint = "lesa://imagenet_conv_r50.pth"
train.output_dir = "./output/mask_rcnn_conv_r50"
