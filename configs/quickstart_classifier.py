"""A small classifier of generated pictures, one recipe for every operator (`model.backbone.operator=…`).

The quick start's detectors start from it, and it is the paper's Table 6 in miniature.
"""

from detectron2.config import LazyCall as L
from torchvision.transforms import v2

from lesa_d2.data import IMAGE_CLASSES, shape_images

from .common.imagenet import dataloader, lr_multiplier, model, train
from .common.small import optimizer, small_backbone

IMAGE_SIZE = 64
WARMUP = 250 / 1500  # as a share of the run

model.backbone.update(image_size=IMAGE_SIZE, num_classes=len(IMAGE_CLASSES), **small_backbone)

for loader, split in ((dataloader.train, "train"), (dataloader.test, "val")):
    loader.dataset = L(shape_images)(split=split, num_images=12000, image_size=IMAGE_SIZE, seed=3)
    loader.num_workers = 0  # pictures this small are read faster than sent between processes
del loader, split
# Larger crops than ImageNet's: these pictures hold one object, and little else.
dataloader.train.mapper.transform.transforms[0].update(size=[IMAGE_SIZE, IMAGE_SIZE], scale=[0.7, 1.0])
dataloader.test.mapper.transform.transforms = [L(v2.Resize)(size=[IMAGE_SIZE, IMAGE_SIZE], antialias=True)]
dataloader.train.total_batch_size = 16  # more steps serve better than larger ones

train.epochs = None
train.max_iter = 1500  # 2 epochs * 12000 images / 16
train.eval_period = train.checkpointer.period = 300
train.reference_batch = 16
train.clip_grad_norm = 20.0
train.output_dir = "./output/quickstart_classifier"

lr_multiplier.lengths = [WARMUP, 1 - WARMUP]
