"""Keypoint R-CNN, ResNet-50 with LESA, COCO's persons, 12 epochs at 1024×1024 (not in the paper)."""

from detectron2 import model_zoo

from .common.coco_boxes import dataloader
from .common.detectron2_models import on_lesa
from .common.schedule import lr_multiplier, optimizer, train

model = on_lesa("keypoint_rcnn_fpn")
model.backbone.bottom_up.operator = "lesa"
keypoints = model_zoo.get_config("common/data/coco_keypoint.py").dataloader
dataloader.train.dataset.update(names=keypoints.train.dataset.names, min_keypoints=1)
dataloader.test.dataset.names = keypoints.test.dataset.names
dataloader.train.mapper.update(
    use_keypoint=True, keypoint_hflip_indices=keypoints.train.mapper.keypoint_hflip_indices
)
del keypoints
train.best_metric = "keypoints/AP"
train.init_checkpoint = "lesa://imagenet_lesa_r50.pth"
train.output_dir = "./output/keypoint_rcnn_lesa_r50"
