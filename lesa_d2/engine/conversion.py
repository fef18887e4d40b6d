"""Write the start of a config's model out of a file of a convolutional network: ``lesa convert --from convolution``."""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ..checkpoint import (
    LoadReport,
    author_of,
    check_target,
    convolution_options,
    load_weights,
    read_checkpoint,
    to_our_names,
    write_weights,
)
from ..config import load_config
from ..data.loader import checked
from ..data.pictures import SUFFIXES, list_pictures
from ..data.progress import progress
from ..errors import CheckpointError, DatasetError
from ..modeling.build import instantiate_part
from .device import settle
from .models import build_model
from .start import backbone_input, warn_of_stride

BATCH = 4
DEFAULT_CONFIG = "mask_rcnn_lesa_r50"


def convert_convolution(
    source: str,
    target: Path,
    cfg: DictConfig,
    *,
    pictures: str | Path | None = None,
    number: int = 32,
    force: bool = False,
) -> LoadReport:
    """Write the start of a model from the convolutional network in ``source``, and its report beside it as ``.txt``.

    The file holds the whole backbone, what is fresh in its slots included, since the statistics belong to that, and
    of the rest what ``source`` gives: the FPN and heads of a detector.

    Args:
        source: a file or an address, as for :func:`lesa_d2.checkpoint.read_checkpoint`.
        target: the ``.pth`` or ``.safetensors`` file to write.
        cfg: a LazyConfig of a detector or classifier with an operator in its slots.
        pictures: a folder of pictures, of any depth, to which the conversion is fitted; None fits it to the weights.
        number: how many of them to use; they are chosen evenly.
        force: replace files that exist.

    Raises:
        CheckpointError: the source cannot be used, has no convolutions in place of the operators, or the target
            cannot be written.
        DatasetError: there are no pictures, or one cannot be read.
    """
    check_target(source, target, force)
    settle(cfg)
    model = build_model(cfg)
    report = load_weights(
        model, source, start=True, images=lambda: [*picture_batches(cfg, model, pictures, number)]
    )
    if not report.slots:
        raise CheckpointError(
            f"{source} has no 3×3 convolutions in place of the operators of this config; expected the weights of a "
            "convolutional ResNet. Give its file, or a config with an operator"
        )
    warn_of_stride(model, report)
    state = model.state_dict()
    weights = {
        name: state[name] for name in state if name in report.loaded or name.startswith(report.backbone)
    }
    write_weights(weights, target, report.text())
    return report


def config_for(source: str, operator: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config of a Mask R-CNN with ``operator`` whose backbone is as deep and wide as that in a file.

    Raises:
        CheckpointError: the file cannot be read, or holds no convolutional ResNet.
    """
    checkpoint = read_checkpoint(source)
    weights, _ = to_our_names(checkpoint["model"], author=author_of(checkpoint))
    options = {**convolution_options(weights), "operator": operator}
    given = [f"model.backbone.bottom_up.{key}={value}" for key, value in options.items()]
    return load_config(DEFAULT_CONFIG, [*given, *overrides])


def picture_batches(
    cfg: DictConfig, model: nn.Module, folder: str | Path | None, number: int
) -> Iterator[Tensor]:
    """Yield batches of normalised pictures, as the backbone gets them in evaluation: (N, 3, H, W)."""
    if folder is None:
        return
    files, _ = list_pictures(folder)
    if not files:
        raise DatasetError(f"{folder} holds no pictures; expected files with one of {', '.join(SUFFIXES)}")
    chosen = files[:: max(1, len(files) // number)][:number]
    mapper = checked(instantiate_part("dataloader.test.mapper", cfg.dataloader.test.mapper))
    records = [{"file_name": file, "image_id": file, "label": 0} for file in chosen]
    inputs: Iterator[Any] = (mapper(record) for record in progress(records, "Reading pictures"))
    for _, same in groupby(inputs, key=lambda record: tuple(record["image"].shape)):
        while batch := list(islice(same, BATCH)):
            yield backbone_input(model, _collated(batch) if cfg.train.task == "classification" else batch)


def _collated(batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        "image": torch.stack([record["image"] for record in batch]),
        "label": torch.tensor([record["label"] for record in batch]),
    }
