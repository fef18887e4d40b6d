"""The batch norm of the released detectors, and which modules count as batch norms."""

import torch.nn.functional as F
from torch import Tensor, nn

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
"""Norms with running statistics, for ``isinstance``."""


class EvalBatchNorm2d(nn.BatchNorm2d):
    """Use the stored statistics of a BatchNorm in training too, while weight and bias train.

    The detectors behind the paper's numbers treat every backbone norm outside the frozen stages so.
    detectron2's ``FrozenBatchNorm2d`` freezes weight and bias as well.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input`` (N, C, H, W) by the stored statistics."""
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
