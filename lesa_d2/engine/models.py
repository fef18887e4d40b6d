"""Models of LazyConfigs: built, compiled, and with the weights of a run."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from ..checkpoint import LoadReport, last_checkpoint, load_evaluated_weights
from ..config import load_config, run_config
from ..errors import CheckpointError, ConfigError
from ..modeling.build import instantiate_model
from .device import settle


def build_model(cfg: DictConfig) -> nn.Module:
    """Build the model on its device; its initial values are a function of ``train.seed``.

    The random numbers of the program that calls it stay as they are.

    Raises:
        ConfigError: the config's arguments do not make a model.
    """
    layout = torch.channels_last if cfg.train.channels_last else torch.preserve_format
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(cfg.train.seed)
        model: Any = instantiate_model(cfg.model)
    return model.to(cfg.train.device, memory_format=layout)


def compile_backbone(model: nn.Module) -> None:
    """Have torch.compile translate the backbone, in place; the names of weights stay.

    Raises:
        ConfigError: no backbone, or on the CPU no C++ compiler.
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
    """Return the model that training evaluated: with the averaged weights where the checkpoint holds them."""
    model = build_model(cfg)
    report = load_evaluated_weights(model, path)
    return model.eval(), report


def load_trained(output_dir: str | Path) -> tuple[DictConfig, nn.Module]:
    """Return config and model, in eval mode, of a finished run: its saved config and last checkpoint.

    Raises:
        LesaError: one of the two is missing, or they do not belong together.
    """
    cfg = load_config(str(run_config(output_dir)))
    settle(cfg)  # a run on a GPU may be looked at without one
    path = last_checkpoint(output_dir)
    if not path:
        raise CheckpointError(f"{output_dir} holds no checkpoint: it is not the folder of a run")
    return cfg, load_evaluated(cfg, path)[0]
