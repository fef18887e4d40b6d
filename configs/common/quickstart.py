"""A small Mask R-CNN on generated shapes, trained in minutes on two CPU cores."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from lesa_d2.data import shapes_split
from lesa_d2.data.loader import build_train_loader
from lesa_d2.evaluation import CocoEvaluator

from .mask_rcnn import model
from .small import IMAGE_SIZE, optimizer, shrink
from .train import train

shrink(model)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=L(shapes_split)(split="train", num_images=2000, image_size=IMAGE_SIZE, seed=1)
        ),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.Resize)(shape=[IMAGE_SIZE, IMAGE_SIZE]),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="${model.input_format}",
            use_instance_mask=True,
            instance_mask_format="bitmask",  # holds run-length masks and polygons alike
        ),
        total_batch_size=4,  # more steps serve better than larger ones
        num_workers=0,  # images this small are read faster than sent between processes
        seed="${train.seed}",
        accumulate="${train.accumulate}",
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=L(shapes_split)(split="val", num_images=200, image_size=IMAGE_SIZE, seed=2),
            filter_empty=False,
        ),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=["${dataloader.train.mapper.augmentations.0}"],
            image_format="${model.input_format}",
        ),
        num_workers=0,
        batch_size=8,
    ),
    evaluator=L(CocoEvaluator)(
        dataset_name="${dataloader.test.dataset.names}", output_dir="${train.output_dir}"
    ),
)

train.reference_batch = 4
train.reference_images = 2000
train.max_iter = 1500
train.clip_grad_norm = 20.0
train.channels_last = True  # a step takes 0.92 times as long on CPUs
train.cudnn_benchmark = True  # every image has the same size
train.ema.update(enabled=True, decay=0.99)  # evens out the last steps of a short run
train.eval_period = 0  # only at the end
train.checkpointer.period = 500

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    warmup_length=100 / 1500,
    warmup_method="linear",
    warmup_factor=0.01,
)

optimizer.lr = 1e-3
