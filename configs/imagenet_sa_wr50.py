"""WideResNet-50-2 with self-attention, ImageNet, 224 px, 5 + 90 epochs (paper, Table 2)."""

from .common.imagenet import dataloader, lr_multiplier, model, optimizer, train

model.backbone.operator = "self_attention"
model.backbone.width_multiplier = 2
train.output_dir = "./output/imagenet_sa_wr50"
