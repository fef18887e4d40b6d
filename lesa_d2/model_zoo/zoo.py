"""Configs and models by name, and the table of what there is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import nn

from ..checkpoint import ReportingCheckpointer, models_folder, weights_state
from ..checkpoint.catalog import Entry, read_catalog
from ..config import load_any_config
from ..config.files import config_files, find_config
from ..errors import ConfigError
from ..modeling.build import build_yacs_model


@dataclass(frozen=True)
class Row:
    """One config of the zoo.

    ``task`` is "detection" or "classification".  AP (COCO val) and top-1 (ImageNet) are in percent, None
    where unknown; ``source`` says whose numbers they are: "paper" and "release" are the authors'.
    ``weights`` of the trained model are "local", in the folder of ``LESA_MODELS``, come by "download", or
    there are "none".
    """

    config: Path
    operator: str
    task: str
    box_ap: float | None
    mask_ap: float | None
    top1: float | None
    source: str | None
    weights: str


class Zoo(Mapping[str, Row]):
    """Rows by name, printed as a table."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        headers = ("name", "operator", "task", "box AP", "mask AP", "top-1", "results of", "weights")
        formats = ("", "", "", ".1f", ".1f", ".2f", "", "")
        lines = [
            (name, row.operator, row.task, row.box_ap, row.mask_ap, row.top1, row.source, row.weights)
            for name, row in self.items()
        ]
        return tabulate(lines, headers=headers, floatfmt=formats, missingval="–")


def available() -> Zoo:
    """Every config of the zoo, with published results and the state of its trained weights.

    Raises:
        CheckpointError: ``catalog.json`` in the folder of ``LESA_MODELS`` is no catalog.
    """
    catalog = read_catalog(models_folder())
    rows = {}
    for name, file in config_files().items():
        known = catalog.get(weights_name(name), Entry())
        operator, task = _kind(name)
        rows[name] = Row(
            config=file,
            operator=operator,
            task=task,
            box_ap=known.box_ap,
            mask_ap=known.mask_ap,
            top1=known.top1,
            source=known.source,
            weights=weights_state(weights_name(name)),
        )
    return Zoo(rows)


def weights_name(name: str) -> str:
    """Name of the trained weights of a config; yacs and LazyConfig describe the same detector."""
    return find_config(name).stem


@cache
def _kind(name: str) -> tuple[str, str]:
    """Operator and task of a config: the files do not change while a process runs."""
    cfg = get_config(name)
    if isinstance(cfg, CfgNode):
        return _operator(cfg.MODEL.LESA.OPERATOR, cfg.MODEL.LESA.DEFORMABLE), "detection"
    is_detector = OmegaConf.select(cfg, "model.roi_heads") is not None
    backbone = cfg.model.backbone.bottom_up if is_detector else cfg.model.backbone
    task = "detection" if is_detector else "classification"
    return _operator(backbone.operator, backbone.get("deformable", False)), task


def _operator(operator: str, deformable: bool) -> str:
    return f"deformable {operator}" if deformable else operator


def get_config(name: str) -> DictConfig | CfgNode:
    """The config ``name``, such as ``mask_rcnn_lesa_r50`` or ``yacs/mask_rcnn_lesa_r50``.

    Raises:
        ConfigError: there is none of this name; names the nearest.
    """
    return load_any_config(str(find_config(name)))


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """The model of a config, in training mode as those of ``detectron2.model_zoo``.

    Args:
        name: as in :func:`get_config`.
        trained: with the weights ``lesa://NAME.pth``, which must fit name by name and shape by shape; else
            everything has its initial values, the backbone too.
        device: None stands for the GPU where there is one, else the CPU.

    Raises:
        ConfigError: there is no config of this name, or no such device.
        CheckpointError: ``trained``, and the weights are missing, damaged, or of another model.
    """
    cfg = get_config(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    weights = f"lesa://{weights_name(name)}.pth"
    if trained:
        PathManager.get_local_path(weights)  # fails before a large model is built
    model = _build(cfg, device)
    if trained:
        ReportingCheckpointer(model).load(weights, checkpointables=[])
    return model


def _check_device(device: str) -> None:
    """Refuse a device that torch does not know or cannot use here."""
    try:
        torch.empty(0, device=device)
    except Exception as error:  # what is raised depends on the device and on how torch was built
        is_cuda = str(device).partition(":")[0] == "cuda"
        missing = (
            "no GPU is found" if is_cuda and not torch.cuda.is_available() else str(error).split("\n")[0]
        )
        raise ConfigError(
            f"device {device!r} cannot be used: {missing}. Give 'cpu', or 'cuda' or 'cuda:0' where "
            "there is a GPU, or None, which takes what there is"
        ) from error


def _build(cfg: DictConfig | CfgNode, device: str) -> nn.Module:
    if isinstance(cfg, CfgNode):
        cfg.MODEL.DEVICE = device
        return build_yacs_model(cfg)
    return instantiate(cfg.model).to(device)
