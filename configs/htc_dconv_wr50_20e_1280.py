"""htc_dconv_wr50_20e, tested at 1280×1280 (paper, Table 3)."""

from .htc_dconv_wr50_20e import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.image_size = 1280
dataloader.test.mapper.augmentations[0].shape = [1280, 1280]
train.output_dir = "./output/htc_dconv_wr50_20e_1280"
