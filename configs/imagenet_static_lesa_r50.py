"""ResNet-50 with static LESA, ImageNet, 224 px, 5 + 90 epochs (paper, Table 6)."""

from .common.imagenet import dataloader, lr_multiplier, model, optimizer, train

model.backbone.operator = "static_lesa"
train.output_dir = "./output/imagenet_static_lesa_r50"
