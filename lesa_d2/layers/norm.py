"""The batch norm of the released detectors, and which modules count as batch norms."""

from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
"""Norms with running statistics, for ``isinstance``."""

T = TypeVar("T", bound="EvalBatchNorm2d")


class EvalBatchNorm2d(nn.BatchNorm2d):
    """Use the stored statistics of a BatchNorm in training too, while weight and bias train.

    The released detectors treat every backbone norm outside the frozen stages so.
    detectron2's ``FrozenBatchNorm2d`` freezes weight and bias as well.

    In training mode with a momentum of 1, it is an ordinary batch norm: it normalises by the statistics of the batch
    and stores them.  fvcore's ``update_bn_stats``, and with it detectron2's ``PreciseBN``, sets this momentum while it
    estimates statistics.  Where its weight is frozen it stays in eval mode, so that they leave it alone.
    """

    def train(self: T, mode: bool = True) -> T:
        """Set the mode; a norm whose weight does not train stays in eval mode."""
        return super().train(mode and (self.weight is None or self.weight.requires_grad))

    @property
    def is_estimated(self) -> bool:
        """Whether a call stores the statistics of its batch."""
        return self.training and self.momentum == 1.0

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input`` (N, C, H, W) by the stored statistics, or the batch's while they are estimated."""
        if self.is_estimated:
            return super().forward(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
