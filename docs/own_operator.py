"""An operator of one's own in a ResNet-101, as a config file: ``lesa train --config-file docs/own_operator.py``."""

from torch import Tensor, nn

from lesa_d2 import model_zoo
from lesa_d2.layers import SlotOperator


class GlobalContext(SlotOperator):
    """Add to a convolution what the whole map has in common, instead of attention."""

    def build(self, norm):
        """Make the parts: LESA's unary term, and a projection of the map's mean."""
        self.unary = self.make_unary(norm)
        self.context = nn.Conv2d(self.in_channels, self.out_channels, 1)

    def combine(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H, W)."""
        return self.unary(x) + self.context(x.mean((2, 3), keepdim=True))


cfg = model_zoo.get_config("mask_rcnn_lesa_r50")
model, dataloader, train = cfg.model, cfg.dataloader, cfg.train
optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier
model.backbone.bottom_up.update(operator=GlobalContext, blocks=[3, 4, 23, 3])
train.update(init_checkpoint="torchvision://resnet101", output_dir="output/global_context_r101")
