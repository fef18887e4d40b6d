"""Panoptic FPN, ResNet-50 with LESA, COCO, 12 epochs at 1024×1024 (not in the paper)."""

from .common.coco_panoptic import dataloader
from .common.detectron2_models import on_lesa
from .common.schedule import lr_multiplier, optimizer, train

model = on_lesa("panoptic_fpn")
model.backbone.bottom_up.operator = "lesa"
train.init_checkpoint = "lesa://imagenet_lesa_r50.pth"
train.output_dir = "./output/panoptic_fpn_lesa_r50"
