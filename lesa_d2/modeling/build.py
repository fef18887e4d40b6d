"""Build models from the configs of both kinds, with errors that say what does not fit."""

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from ..errors import ConfigError

MODEL_ERRORS = (ValueError, TypeError, AssertionError, ArithmeticError, LookupError)
"""What building a model raises where its arguments do not fit together."""


def instantiate_model(cfg: DictConfig) -> nn.Module:
    """Build the model that the ``model`` section of a LazyConfig describes.

    Raises:
        ConfigError: the arguments do not make a model.
    """
    try:
        return instantiate(cfg)
    except MODEL_ERRORS as error:
        raise ConfigError(f"the config's model cannot be built: {error}") from error


def build_yacs_model(cfg: CfgNode) -> nn.Module:
    """Build the model of a yacs config on ``MODEL.DEVICE``, in training mode.

    The random numbers of the program that calls it stay as they are.

    Raises:
        ConfigError: the config's values do not make a model.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return build_model(cfg)
    except MODEL_ERRORS as error:
        raise ConfigError(f"the config's model cannot be built: {error}") from error
