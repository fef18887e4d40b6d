"""COCO 2017 with objects and, for every pixel, a class: things are one class, stuff the others."""

from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOPanopticEvaluator, SemSegEvaluator

from .coco import dataloader

dataloader.train.dataset.update(names="coco_2017_train_panoptic_separated", filter_empty=False)
dataloader.test.dataset.names = "coco_2017_val_panoptic_separated"
dataloader.train.mapper.image_format = "RGB"  # not every model says what it takes
dataloader.test.mapper.image_format = "RGB"
dataloader.evaluator = [
    dataloader.evaluator,
    L(SemSegEvaluator)(dataset_name="${dataloader.test.dataset.names}"),
    L(COCOPanopticEvaluator)(
        dataset_name="${dataloader.test.dataset.names}"
    ),  # where panopticapi is installed
]
