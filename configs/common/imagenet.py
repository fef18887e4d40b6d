"""ImageNet classification: the paper's recipe at 224 px, and the released script's where the paper is silent."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import CompositeParamScheduler, CosineParamScheduler, LinearParamScheduler
from torchvision.transforms import v2

from lesa_d2.config.settings import default_train
from lesa_d2.data import ImageMapper, image_folder
from lesa_d2.data.images import build_image_test_loader
from lesa_d2.data.loader import build_train_loader
from lesa_d2.evaluation import TopAccuracy
from lesa_d2.modeling import ImageClassifier, build_lesa_resnet

model = L(ImageClassifier)(
    backbone=L(build_lesa_resnet)(operator="lesa", width_multiplier=1, image_size=224, num_classes=1000),
    input_format="RGB",
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    label_smoothing=0.0,
    mixup=0.0,
    cutmix=0.0,
    init="detectron2",  # "released": the linear layer starts as in the released code
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(image_folder)(root=None, split="train"),
        mapper=L(ImageMapper)(
            transform=L(v2.Compose)(
                transforms=[
                    L(v2.RandomResizedCrop)(size=[224, 224], antialias=True),
                    L(v2.RandomHorizontalFlip)(),
                ]
            ),
            image_format="${model.input_format}",
        ),
        stacked=True,
        total_batch_size=128,
        num_workers=8,
        seed="${train.seed}",
        accumulate="${train.accumulate}",
    ),
    test=L(build_image_test_loader)(
        dataset=L(image_folder)(root=None, split="val"),
        mapper=L(ImageMapper)(
            transform=L(v2.Compose)(
                transforms=[L(v2.Resize)(size=[256], antialias=True), L(v2.CenterCrop)(size=[224, 224])]
            ),
            image_format="${model.input_format}",
        ),
        batch_size=64,
        num_workers=8,
    ),
    evaluator=L(TopAccuracy)(),
)

WARMUP, COSINE = 5, 90  # epochs

train = default_train("classification")
train.amp.dtype = "bfloat16"
train.epochs = WARMUP + COSINE  # of whatever data set; train.max_iter=N on the command line overrides it
train.max_iter = 950866  # 95 epochs * 1281167 images / 128 images an iteration
train.eval_period = 10009  # an epoch: 1281167 / 128
train.checkpointer.period = 10009
train.reference_batch = 128
train.best_metric = "accuracy/top1"
train.cudnn_benchmark = True  # every image has the same size

lr_multiplier = L(CompositeParamScheduler)(
    schedulers=[
        L(LinearParamScheduler)(start_value=0.0, end_value=1.0),
        L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    ],
    lengths=[WARMUP / (WARMUP + COSINE), COSINE / (WARMUP + COSINE)],
    interval_scaling=["rescaled", "rescaled"],
)

optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(),  # weight decay concerns norms and biases too
    lr=0.05,
    momentum=0.9,
    nesterov=True,
    weight_decay=8e-5,  # of the released script
)
