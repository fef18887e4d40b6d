"""Exponential moving average of the weights, as a PyTorch AveragedModel."""

from collections.abc import Mapping
from itertools import chain, compress
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..compat import foreach_copy_
from ..errors import ConfigError


class Average(AveragedModel):
    """Average parameters and buffers without a wait for the device, in three launches.

    Of buffers that hold whole numbers, such as the number of batches that a norm has seen, it takes the last value.
    The weights do not train, and the state is that of AveragedModel.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self._average = get_ema_multi_avg_fn(decay)
        self.module.requires_grad_(False)
        self._is_started: bool | None = None  # not known: n_averaged tells

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average with the tensors of ``model``; the first call copies them."""
        if self._is_started is None:
            self._is_started = bool(self.n_averaged)
        averages, values = list(_tensors(self.module)), list(_tensors(model))
        is_averaged = [self._is_started and average.is_floating_point() for average in averages]
        is_copied = [not averaged for averaged in is_averaged]
        if any(is_averaged):
            self._average(list(compress(averages, is_averaged)), list(compress(values, is_averaged)), None)
        if any(is_copied):
            foreach_copy_(list(compress(averages, is_copied)), list(compress(values, is_copied)))
        self.n_averaged.add_(1)
        self._is_started = True

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Load the state, as a module does."""
        self._is_started = None
        return super().load_state_dict(state_dict, *args, **options)


def _tensors(model: nn.Module) -> chain[torch.Tensor]:
    return chain(model.parameters(), model.buffers())


def make_ema(model: nn.Module, decay: float) -> Average:
    """Return the average of parameters and buffers: decay·average + (1 − decay)·model after every step.

    Raises:
        ConfigError: ``decay`` does not lie between 0 and 1.
    """
    if not 0 < decay < 1:
        raise ConfigError(f"train.ema.decay must lie between 0 and 1, got {decay}")
    return Average(model, decay)


class EMAHook(HookBase):
    """Update the average after every step."""

    def __init__(self, ema: Average, model: nn.Module) -> None:
        self.ema = ema
        self.model = model

    def after_step(self) -> None:
        """Update the average."""
        self.ema.update_parameters(self.model)
