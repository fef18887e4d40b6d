"""The trained detector of a config, on the CPU."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from torch import nn

from ..checkpoint import ReportingCheckpointer
from ..engine import build_yacs_model, load_any_config
from ..engine.run import build_model, last_checkpoint, load_evaluated
from ..errors import ConfigError


def load_detector(
    config_file: str, weights: str = "", overrides: Sequence[str] = (), untrained: bool = False
) -> nn.Module:
    """The model of a LazyConfig or yacs config, in evaluation mode.

    Args:
        config_file: a file or a name of the model zoo.
        weights: a checkpoint of this model; empty: the last one of the config's output folder.
        overrides: ``key=value``.
        untrained: keep the initial values instead.

    Raises:
        ConfigError: no such config, or no weights.
        CheckpointError: the checkpoint is missing, or not one of this model.
    """
    cfg = load_any_config(config_file, overrides)
    is_yacs = isinstance(cfg, CfgNode)
    output_dir = cfg.OUTPUT_DIR if is_yacs else cfg.train.output_dir
    path = "" if untrained else weights or last_checkpoint(output_dir)
    if not path and not untrained:
        raise ConfigError(
            f"no weights: --weights was not given, and {output_dir} holds no checkpoint; give --weights "
            "FILE.pth, or --untrained to try an export with initial values"
        )
    if is_yacs:
        cfg.MODEL.DEVICE = "cpu"
        model = build_yacs_model(cfg)
        if path:
            ReportingCheckpointer(model).load(path, checkpointables=[])
    else:
        cfg.train.device = "cpu"
        model = load_evaluated(cfg, path)[0] if path else build_model(cfg)
    return model.eval()
