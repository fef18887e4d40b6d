"""Small Mask R-CNN on generated shapes, operator `self_attention`."""

from .common.quickstart import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.operator = "self_attention"
train.output_dir = "./output/quickstart_self_attention"
