"""Batch norms: stored statistics with a trainable affine part, and folding a norm into a scale."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

BATCH_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


class EvalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that uses its stored statistics in training too, while weight and bias train.

    The detectors behind the paper's numbers treat every backbone norm outside the frozen part so.
    detectron2's ``FrozenBatchNorm2d`` freezes weight and bias as well.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def uses_batch_statistics(norm: nn.Module) -> bool:
    """Whether the next call of ``norm`` normalises by the statistics of its input."""
    return norm.training and isinstance(norm, _BatchNorm) and not isinstance(norm, EvalBatchNorm2d)


def stored_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) that a norm with stored statistics amounts to: x·scale + shift."""
    weight, bias, mean, variance, eps = (getattr(norm, name) for name in (*BATCH_NORM_TENSORS, "eps"))
    scale = weight * torch.rsqrt(variance + eps)
    return scale, bias - mean * scale


def check_is_batch_norm(norm: nn.Module) -> None:
    """TypeError unless :func:`stored_affine` is defined for ``norm``."""
    if not all(isinstance(getattr(norm, name, None), Tensor) for name in BATCH_NORM_TENSORS):
        raise TypeError(
            f"the logits need a batch norm with affine parameters and running statistics, got "
            f"{type(norm).__name__}; choose BN, SyncBN, EvalBN or FrozenBN"
        )
