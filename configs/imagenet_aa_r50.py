"""ResNet-50 with attention augmentation, ImageNet, 224 px, 5 + 90 epochs (paper, Table 6)."""

from .common.imagenet import dataloader, lr_multiplier, model, optimizer, train

model.backbone.operator = "attention_augmentation"
train.output_dir = "./output/imagenet_aa_r50"
