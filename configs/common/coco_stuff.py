"""COCO 2017 with stuff maps, for Hybrid Task Cascade: many sizes in training, 1024×1024 in tests."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from lesa_d2.data import RandomSquareResize, StuffMapper, coco_with_stuff_maps

from .coco import dataloader

dataloader.train.dataset.names = L(coco_with_stuff_maps)(
    name="coco_2017_train", folder="coco/stuffthingmaps/train2017"
)
dataloader.train.mapper._target_ = StuffMapper
# The paper's: both sides become one value, with probability ½ from either range.
dataloader.train.mapper.augmentations[0] = L(RandomSquareResize)(ranges=[[512, 1024], [1024, 2048]])
dataloader.train.total_batch_size = 4
dataloader.test.mapper.augmentations = [L(T.Resize)(shape=[1024, 1024])]
