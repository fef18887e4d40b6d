"""Small Hybrid Task Cascade with its semantic branch on generated shapes, operator `lesa`."""

from lesa_d2.data import StuffMapper

from .common.htc import model
from .common.quickstart import dataloader, lr_multiplier, optimizer, train
from .common.small import shrink

shrink(model)
model.backbone.bottom_up.operator = "lesa"
dataloader.train.mapper._target_ = StuffMapper
train.output_dir = "./output/quickstart_htc"
