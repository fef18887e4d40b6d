"""RetinaNet, ResNet-50 with LESA, COCO, 12 epochs at 1024×1024 (not in the paper)."""

from .common.coco_boxes import dataloader
from .common.detectron2_models import on_lesa
from .common.schedule import lr_multiplier, optimizer, train

model = on_lesa("retinanet")
model.backbone.bottom_up.operator = "lesa"
optimizer.lr = 0.005  # detectron2's 0.01 for 16 images
train.best_metric = "bbox/AP"
train.init_checkpoint = "lesa://imagenet_lesa_r50.pth"
train.output_dir = "./output/retinanet_lesa_r50"
