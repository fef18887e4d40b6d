"""Build models from the configs of both kinds, with errors that say what does not fit."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from ..errors import ConfigError, described, is_of_user

ARGUMENT_ERRORS = (ValueError, TypeError, AssertionError, ArithmeticError, LookupError)
"""What building a model raises where its arguments do not fit together."""


def instantiate_model(cfg: DictConfig) -> nn.Module:
    """Build the model that the ``model`` section of a LazyConfig describes.

    Raises:
        ConfigError: the arguments do not make a model.
    """
    return _built(instantiate, cfg)


def build_yacs_model(cfg: CfgNode) -> nn.Module:
    """Build the model of a yacs config on ``MODEL.DEVICE``, in training mode.

    The random numbers of the program that calls it stay as they are.

    Raises:
        ConfigError: the config's values do not make a model.
    """
    with torch.random.fork_rng(devices=[]):
        return _built(build_model, cfg)


def _built(build: Callable[[Any], nn.Module], cfg: Any) -> nn.Module:
    try:
        model = build(cfg)
    except Exception as error:
        if is_of_user(error):  # a mistake in somebody's own module, of any kind
            raise ConfigError(f"the config's model cannot be built: {described(error)}") from error
        if isinstance(error, ARGUMENT_ERRORS):
            raise ConfigError(f"the config's model cannot be built: {error}") from error
        raise
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the config's model must describe a module by its _target_, got {model!r}")
    return model
