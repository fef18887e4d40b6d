"""Mask R-CNN, ResNet-50 with LESA, for photographs of one's own: from ImageNet's convolution, the aspect ratio is kept.

For `--dataset DIR`; COCO's names stand for it until then. On a GPU; docs/own_data.md says what smaller machines take.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .common.coco import dataloader
from .common.mask_rcnn import model
from .common.schedule import coco_schedule

SHORT, LONG = 512, 853  # pixels; LONG is the longer side of 512 at 5:3

dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(
        short_edge_length=[SHORT * 3 // 4, SHORT * 5 // 4], sample_style="range", max_size=LONG * 5 // 4
    ),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=SHORT, max_size=LONG)]
dataloader.train.total_batch_size = 4

model.backbone.bottom_up.operator = "lesa"
model.backbone.bottom_up.image_size = SHORT

train, lr_multiplier, optimizer = coco_schedule(12, [8, 11], batch=4)
train.init_checkpoint = "torchvision://resnet50"
train.init_images = 64  # for the statistics of the converted network
train.cudnn_benchmark = False  # images have many sizes
train.output_dir = "./output/own_photos_lesa"
