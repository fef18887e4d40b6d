"""Faster R-CNN, ResNet-50 with LESA, COCO, 12 epochs at 1024×1024 (not in the paper)."""

from .common.coco_boxes import dataloader
from .common.mask_rcnn import model
from .common.schedule import lr_multiplier, optimizer, train

for part in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(part)
model.backbone.bottom_up.operator = "lesa"
train.best_metric = "bbox/AP"
train.init_checkpoint = "lesa://imagenet_lesa_r50.pth"
train.output_dir = "./output/faster_rcnn_lesa_r50"
