"""Estimation of batch norms' stored statistics, as detectron2's ``PreciseBN`` does, for any mode of the model."""

from collections.abc import Iterable, Sequence
from typing import Any

from fvcore.nn.precise_bn import update_bn_stats
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import LesaError
from ..layers.norm import BatchNorm


def estimate_statistics(
    model: nn.Module, batches: Sequence[Any] | DataLoader[Any], norms: Iterable[nn.Module] | None = None
) -> None:
    """Replace stored statistics by those of the norms' inputs over ``batches``, weights unchanged.

    Meanwhile the norms normalise by the statistics of each batch, ``EvalBatchNorm2d`` too, so that every norm sees
    what the corrected norms before it give.  Everything else is in eval mode.  A norm that no batch reaches keeps its
    statistics.  The norms of LESA's logits are called with maps of all pairs of positions, so that memory is that of
    the plain formula.

    Args:
        model: takes one of the batches; its modes are restored.
        batches: inputs of the model, with a length: a list, or a loader.
        norms: batch norms of the model; by default all that are not frozen.

    Raises:
        LesaError: no batches, or something among ``norms`` is no batch norm with stored statistics.
    """
    if not len(batches):
        raise LesaError("statistics are estimated from at least one batch, got none; give images")
    if norms is None:
        norms = [m for m in model.modules() if isinstance(m, BatchNorm) and _trains(m)]
    before = {norm: _statistics(norm) for norm in norms}
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in before]
    try:
        model.eval()
        for norm in before:
            norm.training = True  # a call of train() would leave out frozen ones
        update_bn_stats(model, batches, len(batches))
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, momentum in momenta:  # where a batch failed, they are those of the estimation
            norm.momentum = momentum
    for norm, (mean, variance, count) in before.items():
        if norm.num_batches_tracked == count:  # fvcore has written zeros
            norm.running_mean, norm.running_var = mean, variance


def _trains(norm: BatchNorm) -> bool:
    """Return whether a norm has stored statistics and is not frozen."""
    return norm.running_mean is not None and (norm.weight is None or norm.weight.requires_grad)


def _statistics(norm: nn.Module) -> tuple[Tensor, Tensor, int]:
    """Return copies of mean and variance, and the number of batches that they have seen."""
    if not isinstance(norm, BatchNorm) or norm.running_mean is None or norm.running_var is None:
        raise LesaError(f"expected batch norms with stored statistics, got {type(norm).__name__}")
    count = 0 if norm.num_batches_tracked is None else int(norm.num_batches_tracked)
    return norm.running_mean.clone(), norm.running_var.clone(), count
