"""Build models from the configs of both kinds, with errors that say what does not fit."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import Backbone, build_model
from omegaconf import DictConfig
from torch import nn

from ..errors import ConfigError, LesaError, described, is_of_user, shortened

ARGUMENT_ERRORS = (ValueError, TypeError, AssertionError, ArithmeticError, LookupError)
"""What building a model raises where its arguments do not fit together, with messages that say what does not."""


def instantiate_model(cfg: DictConfig) -> nn.Module:
    """Build the model that the ``model`` section of a LazyConfig describes.

    Raises:
        ConfigError: the arguments do not make a model.
    """
    return _module(_built("model", instantiate, cfg))


def build_yacs_model(cfg: CfgNode) -> nn.Module:
    """Build the model of a yacs config on ``MODEL.DEVICE``, in training mode.

    The random numbers of the program that calls it stay as they are.

    Raises:
        ConfigError: the config's values do not make a model.
    """
    with torch.random.fork_rng(devices=[]):
        return _module(_built("model", build_model, cfg))


def check_feature_names(model: nn.Module) -> None:
    """Check that the maps that parts of a detector take, ``…in_features``, are among those that its backbone gives.

    Raises:
        ConfigError: some are not; detectron2 would say so in the first forward pass, by the name alone.
    """
    backbone = getattr(model, "backbone", None)
    taken = {
        f"{path}.{key}": names
        for path, part in model.named_modules()
        for key, names in vars(part).items()
        if key.endswith("in_features") and isinstance(names, Sequence) and path.split(".")[0] != "backbone"
    }
    if not taken or not isinstance(backbone, Backbone):
        return
    given = backbone.output_shape()
    for key, names in taken.items():
        if unknown := [name for name in names if name not in given]:
            raise ConfigError(
                f"the config's model cannot be built: {key} has {unknown}, which the backbone does not give; choose "
                f"from {[*given]}"
            )


def instantiate_part(name: str, node: Any, needs: Sequence[str] = ()) -> Any:
    """Build what a node of a LazyConfig describes.

    Args:
        name: its key, for messages.
        node: of the config.
        needs: attributes without which what is built cannot be used.

    Raises:
        ConfigError: the arguments do not fit, or something of another kind is built.
        LesaError: what is built says itself what is wrong.
    """
    try:
        made = _built(name, instantiate, node)
    except ConfigError as error:
        raise error.__cause__ if isinstance(error.__cause__, LesaError) else error from None
    check_kind(name, made, needs)
    return made


def check_kind(name: str, made: Any, needs: Sequence[str]) -> None:
    """Check that what a config describes can be used as what it is there for.

    Raises:
        ConfigError: it lacks an attribute.
    """
    if not all(hasattr(made, attribute) for attribute in needs):
        raise ConfigError(
            f"the config's {name} must describe an object with {', '.join(needs)} by its _target_, got "
            f"{str(made)[:200]!r}"
        )


def _built(name: str, build: Callable[[Any], Any], cfg: Any) -> Any:
    try:
        return build(cfg)
    except Exception as error:
        if is_of_user(error):  # a mistake in somebody's own module, of any kind
            raise ConfigError(f"the config's {name} cannot be built: {described(error)}") from error
        kind = "" if isinstance(error, ARGUMENT_ERRORS) else f"{type(error).__name__}: "
        raise ConfigError(f"the config's {name} cannot be built: {kind}{shortened(error)}") from error


def _module(model: Any) -> nn.Module:
    if isinstance(model, nn.Module):
        check_feature_names(model)
        return model
    raise ConfigError(f"the config's model must describe a module by its _target_, got {model!r}")
