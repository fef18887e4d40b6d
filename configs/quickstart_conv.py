"""Small Mask R-CNN on generated shapes, operator `conv`."""

from .common.quickstart import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.operator = "conv"
train.output_dir = "./output/quickstart_conv"
