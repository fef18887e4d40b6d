"""COCO 2017 without masks, for detectors of boxes."""

from .coco import dataloader

dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.image_format = "RGB"  # not every model says what it takes
dataloader.test.mapper.image_format = "RGB"
