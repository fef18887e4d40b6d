"""A small classifier of generated pictures, one recipe for every operator (`model.backbone.operator=…`).

The quick start's detectors start from it, and it is the paper's Table 6 in miniature.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params
from torchvision.transforms import v2

from lesa_d2.data import IMAGE_CLASSES, shape_images

from .common.imagenet import dataloader, lr_multiplier, model, train
from .common.small import small_backbone

IMAGE_SIZE = 80
WARMUP, COSINE = 1, 7  # epochs

model.backbone.update(image_size=IMAGE_SIZE, num_classes=len(IMAGE_CLASSES), **small_backbone)

for loader, split in ((dataloader.train, "train"), (dataloader.test, "val")):
    loader.dataset = L(shape_images)(split=split, num_images=3200, image_size=IMAGE_SIZE, seed=3)
    loader.num_workers = 0  # pictures this small are read faster than sent between processes
# Objects cover from 3% of a picture: a crop of less than half often misses them.
dataloader.train.mapper.transform.transforms[0].update(size=[IMAGE_SIZE, IMAGE_SIZE], scale=[0.5, 1.0])
dataloader.test.mapper.transform.transforms = [L(v2.Resize)(size=[IMAGE_SIZE, IMAGE_SIZE], antialias=True)]
dataloader.train.total_batch_size = 32

train.epochs = WARMUP + COSINE
train.max_iter = 800  # 8 epochs * 3200 images / 32
train.eval_period = train.checkpointer.period = 100  # an epoch: 3200 / 32
train.reference_batch = 32
train.clip_grad_norm = 20.0
train.output_dir = "./output/quickstart_classifier"

lr_multiplier.lengths = [WARMUP / (WARMUP + COSINE), COSINE / (WARMUP + COSINE)]

optimizer = L(torch.optim.SGD)(params=L(get_default_optimizer_params)(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=8e-5)
