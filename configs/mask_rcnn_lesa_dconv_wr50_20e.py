"""Mask R-CNN, WideResNet-50-2 with deformable LESA, COCO, 20 epochs at 1024×1024 (paper, Tables 3 and 4)."""

from .common.coco import dataloader
from .common.mask_rcnn import model
from .common.schedule_20e import lr_multiplier, optimizer, train

model.backbone.bottom_up.update(operator="lesa", width_multiplier=2, deformable=True)
train.init_checkpoint = "lesa://imagenet_lesa_wr50.pth"
train.output_dir = "./output/mask_rcnn_lesa_dconv_wr50_20e"
