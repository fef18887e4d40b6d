"""ResNet-50 with LESA, ImageNet, 224 px, 5 + 90 epochs (paper, Tables 2 and 6)."""

from .common.imagenet import dataloader, lr_multiplier, model, optimizer, train

model.backbone.operator = "lesa"
train.output_dir = "./output/imagenet_lesa_r50"
