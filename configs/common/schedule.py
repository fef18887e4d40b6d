"""The paper's epochs and steps for COCO; learning rate, batch and warm-up are the release's.

12 epochs here; others by calling `coco_schedule`.
"""

import copy

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler

from .train import train as settings

IMAGES = 117266  # of train2017 have objects
RATE = 0.00125  # learning rate an image of the batch
WARMUP = 500  # iterations


def coco_schedule(epochs, milestones, batch):
    """``train``, ``lr_multiplier`` and ``optimizer`` for ×0.1 after each of the two milestones (epochs)."""
    iterations = epochs * IMAGES // batch
    epoch = -(-IMAGES // batch)  # evaluate and save once an epoch
    train = copy.deepcopy(settings)
    train.update(max_iter=iterations, eval_period=epoch, reference_batch=batch, reference_images=IMAGES)
    train.cudnn_benchmark = True  # every image has 1024×1024 pixels
    train.checkpointer.period = epoch
    lr_multiplier = L(WarmupParamScheduler)(
        # only the ratios of the milestones matter
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[*milestones, epochs]),
        warmup_length=WARMUP / iterations,
        warmup_method="linear",
        warmup_factor=0.001,
    )
    optimizer = L(torch.optim.SGD)(
        # the released weight decay concerns norms and biases too; detectron2's default spares norms
        params=L(get_default_optimizer_params)(),
        lr=RATE * batch,
        momentum=0.9,
        weight_decay=1e-4,
    )
    return train, lr_multiplier, optimizer


# 12 epochs * 117266 images / 8 images an iteration = 175899 iterations, an epoch 14659, rate 0.01
train, lr_multiplier, optimizer = coco_schedule(12, [8, 11], batch=8)
