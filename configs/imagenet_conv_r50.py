"""ResNet-50 with convolutions, ImageNet, 224 px, 5 + 90 epochs (paper, Table 6)."""

from .common.imagenet import dataloader, lr_multiplier, model, optimizer, train

model.backbone.operator = "conv"
model.backbone.res5_stride = 2  # the usual ResNet, for which there are published weights
train.output_dir = "./output/imagenet_conv_r50"
