"""What a run starts from: weights of a file, or nothing."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor, nn

from ..checkpoint import (
    LoadReport,
    RunCheckpointer,
    estimate_behind,
    load_weights,
    slot_operators,
    unwrap,
)
from ..data.loader import build_loader
from ..errors import ConfigError, listed
from ..layers import EvalBatchNorm2d

logger = logging.getLogger("lesa_d2")

STORED = (EvalBatchNorm2d, FrozenBatchNorm2d)
"""Norms that never learn the statistics that they use."""


def load_start(cfg: DictConfig, checkpointer: RunCheckpointer) -> LoadReport:
    """Load the weights that the run starts from, and return a report.

    Where a file has convolutions in place of the model's operators, these are converted
    (:func:`lesa_d2.checkpoint.convolution_to_lesa`).  That, and the statistics of norms that do not learn them and
    are not in the file, are fitted to ``train.init_images`` training images.

    Raises:
        ConfigError: a start from nothing where norms use stored statistics.
        CheckpointError: the weights cannot be used.
    """
    model = unwrap(checkpointer.model)
    if not cfg.train.init_checkpoint:
        check_from_scratch(model)
        return LoadReport()
    images = StartImages(cfg, model)
    report = load_weights(
        model,
        cfg.train.init_checkpoint,
        start=True,
        check=LoadReport.check_partial_start if cfg.train.init_partial else LoadReport.check_start,
        keep_positions=cfg.train.init_positions == "interpolated",
        images=images,
    )
    warn_of_stride(model, report)
    unfitted = [
        name
        for name in _stored_norms(model)
        if name.startswith("backbone.") and f"{name}.running_mean" in report.missing
    ]
    if unfitted:
        backbone, _, norm = unfitted[0].partition(".")
        estimate_behind(norm, model.get_submodule(backbone), images())
        logger.info(
            "The file has no statistics for %d norms, such as %s: estimated on %d images.",
            len(unfitted),
            unfitted[0],
            sum(map(len, images())),
        )
    if comm.get_world_size() > 1 and images.are_read:  # each process has read images of its own
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)
    return report


def warn_of_stride(model: nn.Module, report: LoadReport) -> None:
    """Warn where res5 has another stride than in the ResNets of others, which a report tells by their names."""
    operators = slot_operators(model)
    first = next((operator for name, operator in operators.items() if ".res5.0." in name), None)
    if report.slots and report.renamed and first is not None and first.stride == 1:
        logger.warning(
            "res5 of this model has stride 1, and that of the file's network, as in torchvision, 2: the weights fit, "
            "but see maps of twice the scale. model.backbone.res5_stride=2 gives the layout of the file."
        )


def check_from_scratch(model: nn.Module) -> None:
    """Check that every norm of a model with initial values learns the statistics that it uses.

    Raises:
        ConfigError: some keep mean 0 and variance 1 for ever, so that nothing would be normalised.
    """
    stored = list(_stored_norms(model))
    if stored:
        kinds = sorted({type(model.get_submodule(name)).__name__ for name in stored})
        raise ConfigError(
            f'train.init_checkpoint="" starts from nothing, and {len(stored)} norms ({", ".join(kinds)}: '
            f"{listed(stored, 3)}) use stored statistics, which would stay at mean 0 and variance 1. Start from "
            "weights, such as train.init_checkpoint=torchvision://resnet50, or train norms that learn their "
            "statistics and freeze nothing: model.backbone.bottom_up.norm=BN (SyncBN on several GPUs) and "
            "model.backbone.bottom_up.freeze_at=0"
        )


def _stored_norms(model: nn.Module) -> Iterator[str]:
    """Yield the names of the norms that never learn the statistics that they use."""
    return (name for name, module in model.named_modules() if isinstance(module, STORED))


class StartImages:
    """Read the first training images when they are asked for, as the backbone gets them.

    Args:
        cfg: the settled config of the run.
        model: prepares the images; its backbone does not run.
    """

    def __init__(self, cfg: DictConfig, model: nn.Module) -> None:
        self.cfg, self.model = cfg, model
        self._images: list[Tensor] = []

    @property
    def are_read(self) -> bool:
        """Return whether images have been read."""
        return bool(self._images)

    def __call__(self) -> list[Tensor]:
        """Return batches of at least ``train.init_images`` images together, normalised, (N, 3, H, W) each."""
        if not self._images:
            number = 0
            for batch in build_loader(self.cfg.dataloader.train):
                self._images.append(backbone_input(self.model, batch))
                number += len(self._images[-1])  # of this process, as those of the first count
                if number >= self.cfg.train.init_images:
                    break
        return self._images


class _ReachedError(Exception):
    """Leave a model once its backbone has been reached."""


def backbone_input(model: nn.Module, batch: Any) -> Tensor:
    """Return what the backbone of a model gets for a batch: (N, 3, H, W)."""
    seen: list[Tensor] = []

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].detach())
        raise _ReachedError

    handle = model.get_submodule("backbone").register_forward_pre_hook(see)
    try:
        with torch.no_grad():
            model(batch)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return seen[0]
