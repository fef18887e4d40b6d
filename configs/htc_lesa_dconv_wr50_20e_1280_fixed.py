"""As the released configuration of htc_lesa_dconv_wr50_20e_1280: trained at exactly 1280×1280 too."""

from .htc_lesa_dconv_wr50_20e_1280 import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations[0] = dataloader.test.mapper.augmentations[0]
train.output_dir = "./output/htc_lesa_dconv_wr50_20e_1280_fixed"
train.cudnn_benchmark = True
