"""WideResNet-50-2 with convolutions, ImageNet, 224 px, 5 + 90 epochs (in the paper's Table 2: torchvision's model)."""

from .common.imagenet import dataloader, lr_multiplier, model, optimizer, train

model.backbone.operator = "conv"
model.backbone.width_multiplier = 2
model.backbone.res5_stride = 2  # the usual ResNet, for which there are published weights
train.output_dir = "./output/imagenet_conv_wr50"
