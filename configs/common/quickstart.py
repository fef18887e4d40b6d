"""A small Mask R-CNN on generated shapes, trained in minutes on two CPU cores."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from lesa_d2.data import SHAPE_CLASSES, shapes_split
from lesa_d2.data.loader import build_train_loader

from .mask_rcnn import model
from .small import optimizer, small_backbone
from .train import train

IMAGE_SIZE = 160
CHANNELS = 64

model.backbone.bottom_up.update(image_size=IMAGE_SIZE, **small_backbone)
model.backbone.out_channels = CHANNELS
model.backbone.norm = "BN"
model.proposal_generator.head.in_channels = CHANNELS
# Objects are 12 to 120 pixels across
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [96], [128]]
model.proposal_generator.batch_size_per_image = 64
model.proposal_generator.pre_nms_topk = [300, 300]
model.proposal_generator.post_nms_topk = [150, 150]
model.roi_heads.num_classes = len(SHAPE_CLASSES)
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.input_shape.channels = CHANNELS
model.roi_heads.box_head.fc_dims = [256, 256]
model.roi_heads.box_predictor.input_shape.channels = 256
for pooler, samples in ((model.roi_heads.box_pooler, 2), (model.roi_heads.mask_pooler, 1)):
    pooler.sampling_ratio = samples  # RoIAlign's adaptive sampling takes a third of a step here
    pooler.canonical_box_size = 64  # instead of 224: boxes below 32 pixels from p2, up to 64 from p3, …
model.roi_heads.mask_head.input_shape.channels = CHANNELS
model.roi_heads.mask_head.conv_dims = [48, 48, 48]

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
    evaluator=L(COCOEvaluator)(
        dataset_name="${dataloader.test.dataset.names}", output_dir="${train.output_dir}"
    ),
)

train.reference_batch = 4
train.max_iter = 800
train.clip_grad_norm = 20.0
train.ema.update(enabled=True, decay=0.99)  # evens out the last steps of a short run
train.eval_period = 0  # only at the end
train.checkpointer.period = 400

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    warmup_length=100 / 800,
    warmup_method="linear",
    warmup_factor=0.01,
)

optimizer.lr = 2e-3  # heads start from nothing
