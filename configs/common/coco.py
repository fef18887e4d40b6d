"""COCO 2017 at exactly 1024×1024 (the aspect ratio is not kept), for training and testing."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts

from lesa_d2.data.loader import build_train_loader
from lesa_d2.evaluation import CocoEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.Resize)(shape=[1024, 1024]),
                L(T.RandomFlip)(horizontal=True),  # with probability 0.5
            ],
            image_format="${model.input_format}",
            use_instance_mask=True,
            # The released code's targets are RoIAlign of bitmaps; detectron2's default rasterises polygons instead.
            instance_mask_format="bitmask",
        ),
        total_batch_size=8,
        num_workers=4,
        seed="${train.seed}",
        accumulate="${train.accumulate}",
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=["${dataloader.train.mapper.augmentations.0}"],
            image_format="${model.input_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(CocoEvaluator)(
        dataset_name="${dataloader.test.dataset.names}", output_dir="${train.output_dir}"
    ),
)
