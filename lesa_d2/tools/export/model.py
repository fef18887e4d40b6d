"""The trained detector of a config on the CPU."""

from collections.abc import Sequence

from torch import nn

from ...config import load_any_config
from ...errors import ConfigError
from ...predictor import Predictor, trained_weights


def load_detector(
    config_file: str, weights: str = "", overrides: Sequence[str] = (), untrained: bool = False
) -> nn.Module:
    """Build the model of a LazyConfig or yacs config, with its weights, in evaluation mode on the CPU.

    Args:
        config_file: a file or a name of the model zoo.
        weights: a checkpoint of this model; if empty, that of :func:`trained_weights`.
        overrides: ``key=value``.
        untrained: keep the initial values instead.

    Raises:
        ConfigError: there is no such config, or it has no weights.
        CheckpointError: the checkpoint is missing, or not one of this model.
    """
    cfg = load_any_config(config_file, overrides)
    if untrained:
        return Predictor(cfg, weights="", device="cpu").model
    path = weights or trained_weights(cfg)
    if not path:
        raise ConfigError(
            "no weights: --weights was not given, and the config's output folder holds no checkpoint; give "
            "--weights FILE.pth, or --untrained to try an export with initial values"
        )
    return Predictor(cfg, path, device="cpu").model
