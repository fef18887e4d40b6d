"""Small Mask R-CNN on generated shapes, operator `lesa`."""

from .common.quickstart import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.operator = "lesa"
train.output_dir = "./output/quickstart_lesa"
