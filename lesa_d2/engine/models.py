"""Models of LazyConfigs: building, compiling, and loading the weights of a run."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ..checkpoint import LoadReport, last_checkpoint, load_evaluated_weights
from ..config import load_config, run_config
from ..errors import CheckpointError, ConfigError
from ..modeling.build import instantiate_model
from .device import settle


def build_model(cfg: DictConfig) -> nn.Module:
    """Build the model on its device; its initial values depend on ``train.seed`` only.

    The state of the random numbers in the calling program is not changed.

    Raises:
        ConfigError: the arguments in the config do not fit the model.
    """
    layout = torch.channels_last if cfg.train.channels_last else torch.preserve_format
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(cfg.train.seed)
        model: Any = instantiate_model(cfg.model)
    backbone = getattr(model, "backbone", None)
    if cfg.train.channels_last and isinstance(backbone, nn.Module):
        backbone.register_forward_pre_hook(_in_channels_last)
    return model.to(cfg.train.device, memory_format=layout)


def _in_channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give a module its images (N, C, H, W) in the layout of its weights."""
    return inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:]


def compile_backbone(model: nn.Module) -> None:
    """Compile the backbone by torch.compile, in place; the names of the weights do not change.

    Raises:
        ConfigError: the model has no backbone, or it is on the CPU and there is no C++ compiler.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ConfigError("train.compile=True concerns the model's backbone, and this model has none")
    compiler = os.getenv("CXX", "g++")
    if next(backbone.parameters()).device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(
            f"train.compile=True needs a C++ compiler on the CPU, and there is no {compiler!r}; install one, "
            "name it in CXX, or leave train.compile=False"
        )
    backbone.compile()


def load_evaluated(cfg: DictConfig, path: str) -> tuple[nn.Module, LoadReport]:
    """Return the model that training evaluated, with averaged weights if the checkpoint has them, and a report."""
    model = build_model(cfg)
    report = load_evaluated_weights(model, path)
    return model.eval(), report


def load_trained(output_dir: str | Path) -> tuple[DictConfig, nn.Module]:
    """Return the saved config of a finished run, and its model, in eval mode, with the last checkpoint.

    Raises:
        LesaError: one of the two is missing, or they do not belong together.
    """
    cfg = load_config(str(run_config(output_dir)))
    settle(cfg)  # the run may have been on a GPU that is not here
    path = last_checkpoint(output_dir)
    if not path:
        raise CheckpointError(f"{output_dir} holds no checkpoint: it is not the folder of a run")
    return cfg, load_evaluated(cfg, path)[0]
