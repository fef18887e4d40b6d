"""The paper's 12-epoch schedule for COCO, batch 8."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler

from .train import train

train.reference_batch = 8
# 117266 images of train2017 have objects:
# 12 epochs * 117266 images / 8 images an iteration = 175899 iterations
train.max_iter = 175899
# An epoch is 117266 / 8 = 14658.25 iterations: evaluate and save once an epoch.
train.eval_period = 14659
train.checkpointer.period = 14659

lr_multiplier = L(WarmupParamScheduler)(
    # ×0.1 after epochs 8 and 11 of 12; only the ratios of the milestones matter
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[8, 11, 12]),
    warmup_length=500 / 175899,  # 500 iterations, as a share of the run
    warmup_method="linear",
    warmup_factor=0.001,
)

optimizer = L(torch.optim.SGD)(
    # weight_decay_norm is not set: the paper's weight decay concerns norms and biases too
    params=L(get_default_optimizer_params)(),
    lr=0.01,  # 0.00125 an image * 8 images
    momentum=0.9,
    weight_decay=1e-4,
)
