"""Batch norms as a scale and a shift, which fold into convolutions and into the queries of attention."""

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..compat import version_of
from .exporting import sizes_are_open
from .moments import Moments
from .norm import BatchNorm, EvalBatchNorm2d

WEIGHTS, STATISTICS = ("weight", "bias"), ("running_mean", "running_var")
BATCH_NORM_TENSORS = (*WEIGHTS, *STATISTICS)


def must_be_called(*modules: nn.Module) -> bool:
    """Return whether one of the modules has hooks of its own, which only a call runs; it must then not be folded.

    Observers of quantisation, pruning, spectral norms, summaries and precise batch norms are such hooks.  Hooks of all
    modules at once (``register_module_forward_hook``) see the modules that are called.
    """
    return any(
        hooks
        for m in modules
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
    )


def uses_batch_statistics(norm: nn.Module) -> bool:
    """Return whether the next call of ``norm`` normalises by the statistics of its input."""
    if isinstance(norm, EvalBatchNorm2d):
        return norm.is_estimated
    return norm.training and isinstance(norm, BatchNorm)


def is_foldable(norm: nn.Module) -> bool:
    """Return whether :func:`stored_affine` does all that a call of ``norm`` would do."""
    return has_stored_affine(norm) and not uses_batch_statistics(norm) and not must_be_called(norm)


def stored_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the scale and shift (C,) that a norm with stored statistics applies: x·scale + shift.

    What depends on tensors without gradient alone is computed once, and again after a change: all of it where weight
    and bias do not train, else what the statistics give.
    """
    if any(getattr(norm, name).requires_grad for name in WEIGHTS):
        return _affine(norm)
    return _once(_affines, norm, BATCH_NORM_TENSORS, _affine)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = (getattr(norm, name) for name in WEIGHTS)
    inverse, centre = _once(_standards, norm, STATISTICS, _standard)
    return weight * inverse, torch.addcmul(bias, weight, centre, value=-1)


def _standard(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the inverse of the deviation, and the mean in units of the deviation, (C,) each."""
    mean, variance, eps = (getattr(norm, name) for name in (*STATISTICS, "eps"))
    inverse = torch.rsqrt(variance + eps)
    return inverse, mean * inverse


class _Kept(NamedTuple):
    """A result, the state that it belongs to, and the memory of its tensors, which no others get meanwhile."""

    state: tuple
    tensors: list[Tensor]
    result: tuple[Tensor, Tensor]


_affines: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()
_standards: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def _once(
    kept: MutableMapping[nn.Module, _Kept],
    norm: nn.Module,
    names: Sequence[str],
    compute: Callable[[nn.Module], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Return what ``compute`` makes of the named tensors of ``norm``, from ``kept`` where they have not changed."""
    is_traced = torch.compiler.is_compiling() or sizes_are_open()
    state = None if is_traced else _state_of(norm, names)
    if state is None:
        return compute(norm)
    found = kept.get(norm)
    if found is None or found.state != state:
        found = kept[norm] = _Kept(state, [getattr(norm, name).detach() for name in names], compute(norm))
    return found.result


def _state_of(norm: nn.Module, names: Sequence[str]) -> tuple | None:
    """Return what changes with the named tensors of a norm; None where that cannot be told.

    The version of a tensor does not change where a fused optimizer changes it, so that it must not train; nor that of
    running statistics where a norm updates them, but that of their number of batches.
    """
    tensors = [getattr(norm, name) for name in names]
    batches = getattr(norm, "num_batches_tracked", None)
    if any(type(t) not in (Tensor, nn.Parameter) or t.requires_grad or t.is_meta for t in tensors):
        return None
    stream: Any = None
    if tensors[0].is_cuda:
        if torch.cuda.is_current_stream_capturing():  # a graph computes it whenever it runs
            return None
        stream = torch.cuda.current_stream(tensors[0].device)
    try:
        places = [(t.data_ptr(), t.dtype, version_of(t)) for t in tensors]
        updates = None if batches is None else version_of(batches)
    except RuntimeError:  # tensors of inference mode have no version, those of torch.func no memory
        return None
    return *places, updates, norm.eps, stream, torch.is_inference_mode_enabled()


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Compute norm(conv(x)), conv without bias; a norm with stored statistics costs no pass over the map."""
    if is_foldable(norm) and not must_be_called(conv):
        return conv_affine(conv, *stored_affine(norm), x)
    out = norm(conv(x))
    return out.clone() if must_be_called(norm) else out  # a hook may keep what callers change in place


def conv_affine(conv: nn.Conv2d, scale: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    """Compute conv(x)·scale + shift with scale and shift (C',) folded into the weights."""
    dtype = conv.weight.dtype  # norms may be wider than convolutions
    weight, shift = (conv.weight * scale[:, None, None, None]).to(dtype), shift.to(dtype)
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def batch_affine(norm: nn.Module, moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the scale and shift (C,) that a batch norm applies to a batch of these moments: x·scale + shift.

    The running statistics are updated as a call of ``norm`` with that batch would do, over all processes where it is
    a ``SyncBatchNorm``.

    Raises:
        ValueError: a single value a channel, whose variance means nothing.
    """
    assert isinstance(norm, BatchNorm)
    mean, variance = moments.mean, moments.variance
    count: int | Tensor = moments.count
    if isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        mean, variance, count = _over_processes(moments, norm.process_group)
    elif count == 1:
        raise ValueError(
            "batch statistics need more than one value a channel; got one image with a map of 1×1: use a "
            "larger batch or image, or norms with stored statistics (EvalBN, eval())"
        )
    if norm.track_running_stats:
        _move_running_statistics(norm, mean.detach(), variance.detach(), count)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def _over_processes(moments: Moments, group: "dist.ProcessGroup | None") -> tuple[Tensor, Tensor, Tensor]:
    """Compute mean and variance (C,) of all processes' values together, differentiable, and their number, ().

    The number stays on the device: nothing waits for it.
    """
    from torch.distributed.nn.functional import all_reduce  # not in every build of PyTorch

    group = dist.group.WORLD if group is None else group
    count = moments.mean.new_full((1,), moments.count)
    *sums, total = all_reduce(torch.cat([moments.mean * count, count]), group=group).tensor_split([-1])
    number = total.clamp_min(1)
    mean = sums[0] / number
    spread = moments.variance + (moments.mean - mean).square()
    return mean, all_reduce(spread * (count / number), group=group), total[0].detach()


@torch.no_grad()
def _move_running_statistics(norm: BatchNorm, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
    """Update the running statistics by those of a batch of ``count`` values; one without values changes nothing."""
    if norm.num_batches_tracked is None:  # within statistics_once
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    is_seen = count > 0
    norm.num_batches_tracked.add_(is_seen)
    momentum = 1.0 / norm.num_batches_tracked.clamp_min(1) if norm.momentum is None else norm.momentum
    share = momentum * is_seen
    degrees = (count - 1).clamp_min(1) if isinstance(count, Tensor) else max(count - 1, 1)
    for running, value in ((norm.running_mean, mean), (norm.running_var, variance * count / degrees)):
        weight = share.to(running.dtype) if isinstance(share, Tensor) else share
        running.lerp_(value.to(running.dtype), weight)


def has_stored_affine(norm: nn.Module) -> bool:
    """Return whether ``norm`` has what :func:`stored_affine` takes."""
    return all(isinstance(getattr(norm, name, None), Tensor) for name in BATCH_NORM_TENSORS)


def check_is_batch_norm(norm: nn.Module) -> None:
    """Check that :func:`batch_affine` and :func:`stored_affine` know the arithmetic of ``norm``.

    Raises:
        TypeError: they do not.
    """
    forwards = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward, EvalBatchNorm2d.forward)
    does_more = isinstance(norm, BatchNorm) and type(norm).forward not in forwards
    if not has_stored_affine(norm) or does_more:
        raise TypeError(
            f"the logits need a batch norm with affine parameters and running statistics, got "
            f"{type(norm).__name__}; choose BN, SyncBN, EvalBN or FrozenBN"
        )
