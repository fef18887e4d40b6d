"""The shipped configs and their models by name, as ``detectron2.model_zoo`` has its own.

``python -m lesa_d2.model_zoo`` prints the table of them.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn

from .checkpoint import load_weights, models_folder, weights_state
from .config import load_any_config
from .config.files import config_files, find_config
from .config.lazy import lesa_backbones
from .errors import ConfigError
from .modeling.build import build_yacs_model, instantiate_model
from .weights import PREFIX, RESULTS, Result


@dataclass(frozen=True)
class Row:
    """Describe one config of the zoo.

    ``operator`` is that of the backbone, "" where the backbone is not ours.  ``task`` is the config's
    ``train.task``.  ``weights`` of the trained model are "local", in the folder of ``LESA_MODELS``, come by
    "download", or there are "none".
    """

    config: Path
    operator: str
    task: str
    results: Result
    weights: str


class Zoo(dict[str, Row]):
    """Map names to rows; printed as a table."""

    def __repr__(self) -> str:
        """Return the table."""
        headers = ("name", "operator", "task", "box AP", "mask AP", "top-1", "results of", "weights")
        lines = [
            (name, row.operator, row.task, got.box_ap, got.mask_ap, got.top1, got.source, row.weights)
            for name, row in self.items()
            for got in [row.results]
        ]
        formats = ("", "", "", ".1f", ".1f", "g", "", "")
        return tabulate(lines, headers=headers, floatfmt=formats, missingval="–")


def available() -> Zoo:
    """Return every config of the zoo, with published results and the state of its trained weights."""
    rows = {}
    for name, file in config_files().items():
        operator, task = _operator_and_task(name)
        results = RESULTS.get(file.stem, Result())
        rows[name] = Row(file, operator, task, results, weights_state(file.stem))
    return Zoo(rows)


@cache  # the files do not change while a process runs
def _operator_and_task(name: str) -> tuple[str, str]:
    cfg = get_config(name)
    if isinstance(cfg, CfgNode):
        return _describe(cfg.MODEL.LESA.OPERATOR, cfg.MODEL.LESA.DEFORMABLE), "detection"
    backbone = next(iter(lesa_backbones(cfg).values()), None)
    if backbone is None:
        return "", cfg.train.task
    return _describe(backbone.get("operator", "lesa"), backbone.get("deformable", False)), cfg.train.task


def _describe(operator: Any, deformable: bool) -> str:
    name = operator if isinstance(operator, str) else operator.__name__
    return f"deformable {name}" if deformable else name


def get_config(name: str) -> DictConfig | CfgNode:
    """Load the config ``name``, such as ``mask_rcnn_lesa_r50`` or ``yacs/mask_rcnn_lesa_r50``.

    Raises:
        ConfigError: there is no config of this name; names the nearest.
    """
    return load_any_config(str(find_config(name)))


def get_config_file(name: str) -> str:
    """Return the path of the file of the config ``name``, as in :func:`get_config`.

    Raises:
        ConfigError: there is no config of this name; names the nearest.
    """
    return str(find_config(name))


def get_checkpoint_url(name: str) -> str:
    """Return the address of the trained weights of the config ``name``, ``lesa://NAME.pth``.

    The weights need not be there: ``available()`` tells which are.

    Raises:
        ConfigError: there is no config of this name; names the nearest.
    """
    return f"{PREFIX}{find_config(name).stem}.pth"


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build the model of a config, in training mode as those of ``detectron2.model_zoo``.

    Args:
        name: as in :func:`get_config`.
        trained: load the weights ``lesa://NAME.pth``, which must fit name by name and shape by shape; else
            everything has its initial values, the backbone too.
        device: None stands for the GPU where there is one, else the CPU.

    Raises:
        ConfigError: there is no config of this name, or no such device.
        CheckpointError: ``trained``, and the weights are missing, damaged, or of another model.
    """
    cfg = get_config(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    weights = get_checkpoint_url(name)
    if trained:
        PathManager.get_local_path(weights)  # fails before a large model is built
    if isinstance(cfg, CfgNode):
        cfg.MODEL.DEVICE = device
        model = build_yacs_model(cfg)
    else:
        model = instantiate_model(cfg.model).to(device)
    if trained:
        load_weights(model, weights)
    return model


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except Exception as error:  # what is raised depends on the device and on how torch was built
        is_missing = str(device).startswith("cuda") and not torch.cuda.is_available()
        reason = "no GPU is found" if is_missing else str(error).split("\n")[0]
        raise ConfigError(
            f"device {device!r} cannot be used: {reason}. Give 'cpu', or 'cuda' or 'cuda:0' where there is a "
            "GPU, or None, which takes what there is"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and which other weights there are; return the exit status."""
    parser = argparse.ArgumentParser(prog="lesa zoo", description="Print the model zoo.")
    parser.parse_args(arguments)
    zoo, folder = available(), models_folder()
    print(zoo)
    print(f"\nWeights are looked for in {folder} (LESA_MODELS).")
    others = sorted({file.stem for file in folder.glob("*.pth")} - {row.config.stem for row in zoo.values()})
    if others:
        print(f"Others there: {', '.join(others)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
