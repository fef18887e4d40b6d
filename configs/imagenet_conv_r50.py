"""ResNet-50 with convolutions, ImageNet, 224 px, 5 + 90 epochs (in the paper's Tables 2 and 6: torchvision's model)."""

from .common.imagenet import dataloader, lr_multiplier, model, optimizer, train

model.backbone.operator = "conv"
model.backbone.res5_stride = 2  # the usual ResNet, for which there are published weights
train.output_dir = "./output/imagenet_conv_r50"
