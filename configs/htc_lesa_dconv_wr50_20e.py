"""Hybrid Task Cascade, WideResNet-50-2 with deformable LESA, COCO, 20 epochs (paper, Tables 3 and 4)."""

from .common.coco_stuff import dataloader
from .common.htc import model
from .common.schedule_20e_batch4 import lr_multiplier, optimizer, train

model.backbone.bottom_up.update(operator="lesa", width_multiplier=2, deformable=True)
train.init_checkpoint = "lesa://imagenet_lesa_wr50.pth"
train.output_dir = "./output/htc_lesa_dconv_wr50_20e"
