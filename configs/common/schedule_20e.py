"""The paper's 20-epoch schedule for COCO, batch 8; its text prints 24 epochs, its Table 3 and the release have 20."""

from .schedule import coco_schedule

# 20 epochs * 117266 images / 8 images an iteration = 293165 iterations, rate 0.01
train, lr_multiplier, optimizer = coco_schedule(20, [16, 19], batch=8)
