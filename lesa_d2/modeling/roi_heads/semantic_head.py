"""The semantic branch of Hybrid Task Cascade (arXiv 1901.07518, section 3.3)."""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from detectron2.layers import Conv2d
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn


class FusedSemanticHead(nn.Module):
    """Pixel classes, and a map of features for the boxes and masks, from all levels of a pyramid.

    ``x = Σ_i ReLU(1×1_i(P_i resized to the fused level))``, then 3×3 convolutions with ReLU; from that the
    logits (1×1) and the features (1×1, ReLU).

    Args:
        in_features: names of the pyramid's levels, finest first.
        in_channels: their channels.
        channels: of the hidden layers and of the features.
        num_classes: values a label map may have, beside ``ignore_label``.
        fused_level: the level whose size everything has.
        num_convs: number of 3×3 convolutions.
        stride: of the fused level, in pixels of the image.
        loss_weight: multiplies the loss.
        ignore_label: value of pixels without a label.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5", "p6"),
        in_channels: int = 256,
        channels: int = 256,
        num_classes: int,
        fused_level: str = "p3",
        num_convs: int = 4,
        stride: int = 8,
        loss_weight: float = 0.2,
        ignore_label: int = 255,
    ) -> None:
        super().__init__()
        if fused_level not in in_features:
            raise ValueError(
                f"fused_level must be one of in_features {list(in_features)}, got {fused_level!r}"
            )
        self.in_features = list(in_features)
        self.fused_level = fused_level
        self.num_classes = num_classes
        self.stride = stride
        self.loss_weight = loss_weight
        self.ignore_label = ignore_label
        self.lateral_convs = nn.ModuleList(_conv(in_channels, channels, 1) for _ in in_features)
        self.convs = nn.ModuleList(_conv(channels, channels, 3) for _ in range(num_convs))
        self.predictor = _conv(channels, num_classes, 1, activation=None)
        self.embedding = _conv(channels, channels, 1)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute maps of the pyramid (N, C, H_i, W_i) -> logits (N, K, H, W) and features (N, C', H, W)."""
        size = features[self.fused_level].shape[-2:]
        x: Tensor | int = 0
        for name, lateral in zip(self.in_features, self.lateral_convs, strict=True):
            level = features[name]
            if name != self.fused_level:
                level = F.interpolate(level, size, mode="bilinear", align_corners=True)
            x = x + lateral(level)
        for conv in self.convs:
            x = conv(x)
        return self.predictor(x), self.embedding(x)

    def loss(self, logits: Tensor, sem_seg: Tensor) -> Tensor:
        """Compute the weighted mean cross-entropy over the labelled pixels; zero where there is none.

        Args:
            logits: (N, K, H, W).
            sem_seg: (N, H·stride, W·stride) int64 labels of every pixel; each stride-th is the target.
        """
        targets = sem_seg[:, :: self.stride, :: self.stride]
        labelled = (targets != self.ignore_label).sum()
        total = F.cross_entropy(logits.float(), targets, ignore_index=self.ignore_label, reduction="sum")
        return self.loss_weight * total / labelled.clamp(min=1)


def _conv(
    in_channels: int, out_channels: int, size: int, activation: type[nn.Module] | None = nn.ReLU
) -> Conv2d:
    conv = Conv2d(
        in_channels, out_channels, size, padding=size // 2, activation=activation() if activation else None
    )
    c2_msra_fill(conv)
    return conv
