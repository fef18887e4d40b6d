"""Semantic FPN, ResNet-50 with LESA, COCO's stuff and things as one class, at 1024×1024 (not in the paper)."""

from detectron2.config import LazyCall as L
from detectron2.modeling import SemanticSegmentor

from .common.coco_panoptic import dataloader
from .common.detectron2_models import on_lesa
from .common.schedule import lr_multiplier, optimizer, train

panoptic = on_lesa("panoptic_fpn")
model = L(SemanticSegmentor)(
    backbone=panoptic.backbone,
    sem_seg_head=panoptic.sem_seg_head,
    pixel_mean=panoptic.pixel_mean,
    pixel_std=panoptic.pixel_std,
)
del panoptic
model.backbone.bottom_up.operator = "lesa"
model.sem_seg_head.loss_weight = 1.0  # 0.5 beside the losses of objects
dataloader.train.mapper.use_instance_mask = False
dataloader.evaluator = dataloader.evaluator[1]
train.best_metric = "sem_seg/mIoU"
train.init_checkpoint = "lesa://imagenet_lesa_r50.pth"
train.output_dir = "./output/semantic_fpn_lesa_r50"
