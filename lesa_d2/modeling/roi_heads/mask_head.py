"""A mask head that hands its features on to that of the next stage (arXiv 1901.07518, section 3.2)."""

from typing import Any

from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn


class CascadeMaskHead(MaskRCNNConvUpsampleHead):
    """detectron2's mask head, split where the next stage's head takes its features.

    With the pooled maps M: ``f_t = convs(M + ReLU(1×1(f_{t-1})))``, ``logits_t = 1×1(ReLU(deconv(f_t)))``.

    Args:
        input_shape: of the pooled maps.
        follows: whether there is an earlier head, whose features a 1×1 takes.
        conv_dims, num_classes, conv_norm, loss_weight: as in detectron2's class.
    """

    def __init__(self, input_shape: ShapeSpec, *, follows: bool, conv_dims: list[int], **kwargs: Any) -> None:
        super().__init__(input_shape, conv_dims=conv_dims, **kwargs)
        if follows:
            handed_on = conv_dims[-2] if len(conv_dims) > 1 else input_shape.channels
            self.conv_res = Conv2d(handed_on, input_shape.channels, 1, activation=nn.ReLU())
            c2_msra_fill(self.conv_res)

    def refine(self, pooled: Tensor, previous: Tensor | None = None) -> Tensor:
        """Refine M (R, C, S, S) and the previous head's features (R, C', S, S) -> f_t (R, C', S, S)."""
        x = pooled if previous is None else pooled + self.conv_res(previous)
        for conv in self.conv_norm_relus:
            x = conv(x)
        return x

    def predict(self, refined: Tensor) -> Tensor:
        """Predict f_t (R, C', S, S) -> logits (R, K, 2S, 2S)."""
        return self.predictor(self.deconv_relu(self.deconv(refined)))

    def layers(self, x: Tensor) -> Tensor:
        """Compute this head alone, without features of an earlier one; detectron2's ``forward`` calls it."""
        return self.predict(self.refine(x))
