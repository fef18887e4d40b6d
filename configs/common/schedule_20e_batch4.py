"""The paper's 20-epoch schedule for COCO with the batch of 4 of the released Hybrid Task Cascade."""

from .schedule import coco_schedule

# 20 epochs * 117266 images / 4 images an iteration = 586330 iterations, rate 0.005
train, lr_multiplier, optimizer = coco_schedule(20, [16, 19], batch=4)
train.cudnn_benchmark = False  # HTC trains at many sizes
