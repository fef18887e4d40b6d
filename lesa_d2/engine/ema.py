"""Exponential moving average of the weights, by PyTorch's AveragedModel."""

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..checkpoint import WeightsWriter
from ..errors import ConfigError


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Return the average of parameters and buffers: decay·average + (1 − decay)·model after every step.

    Raises:
        ConfigError: ``decay`` does not lie between 0 and 1.
    """
    if not 0 < decay < 1:
        raise ConfigError(f"train.ema.decay must lie between 0 and 1, got {decay}")
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


class EMAHook(HookBase):
    """Update the average after every step, and write it as ``model_ema_final.pth`` at the end."""

    def __init__(self, ema: AveragedModel, model: nn.Module, output_dir: str) -> None:
        self.ema = ema
        self.model = model
        self.output_dir = output_dir

    def after_step(self) -> None:
        """Update the average."""
        self.ema.update_parameters(self.model)

    def after_train(self) -> None:
        """Write the average."""
        if comm.is_main_process():
            WeightsWriter(self.ema.module, self.output_dir).save("model_ema_final")
