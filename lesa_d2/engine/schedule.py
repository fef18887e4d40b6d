"""A detector's schedule for data of another size than its config was written for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config.lazy import is_given

LEAST = 1000
"""Iterations: from ImageNet weights, new heads need about as many steps however small the data set is."""

EVALUATIONS = 5
WARMUP_SHARE = 0.2  # of a run, at most

MAX_ITER, EVAL_PERIOD, SAVE_PERIOD = "train.max_iter", "train.eval_period", "train.checkpointer.period"
WARMUP = "lr_multiplier.warmup_length"


@dataclass(frozen=True)
class Schedule:
    """What a config file prescribes.

    Attributes:
        iterations: of the whole run.
        batch: images an iteration.
        images: of the data set that the number of iterations was chosen for; None if the config does not say.
        warmup: iterations of rising learning rate.
    """

    iterations: int
    batch: int
    images: int | None
    warmup: float

    @classmethod
    def of(cls, cfg: DictConfig) -> "Schedule":
        share = OmegaConf.select(cfg, WARMUP) or 0.0
        iterations = cfg.train.max_iter
        return cls(
            iterations=iterations,
            batch=cfg.dataloader.train.total_batch_size,
            images=OmegaConf.select(cfg, "train.reference_images"),
            warmup=share * iterations,
        )

    @property
    def epochs(self) -> float | None:
        return self.iterations * self.batch / self.images if self.images else None


def fitted_iterations(schedule: Schedule, images: int, batch: int) -> int:
    """The config's epochs on ``images``, but at least LEAST iterations and at most as many pictures.

    Small data sets thus get enough steps to learn anything, large ones see no more pictures than the config's
    data set did; a short config, such as the quick start's, keeps its length.
    """
    if schedule.epochs is None:
        return schedule.iterations
    wanted = round(schedule.epochs * images / batch)
    return min(max(wanted, LEAST), most_iterations(schedule, batch))


def most_iterations(schedule: Schedule, batch: int) -> int:
    """Those that see as many pictures as the config's, ``batch`` at a time."""
    return max(1, round(schedule.iterations * schedule.batch / batch))


def fit_schedule(cfg: DictConfig, schedule: Schedule, images: int, given: Sequence[str] = ()) -> str:
    """Fit a config's schedule, in place, to a number of training images; returns a line that says how.

    Iterations by :func:`fitted_iterations`; an evaluation and a checkpoint every EVALUATIONS-th of the run;
    the warm-up keeps its iterations, but at most WARMUP_SHARE of the run.  Fitting twice changes nothing.

    Args:
        cfg: with the command line's overrides applied.
        schedule: of the config file alone.
        images: with objects, for training; where there are none, the data loader says so later.
        given: overrides of the command line; keys among them are kept.
    """
    batch = cfg.dataloader.train.total_batch_size

    def put(key: str, value: Any) -> None:
        if not is_given(key, given):
            OmegaConf.update(cfg, key, value)

    put(MAX_ITER, fitted_iterations(schedule, images, batch))
    iterations = cfg.train.max_iter
    put(EVAL_PERIOD, -(-iterations // EVALUATIONS))
    put(SAVE_PERIOD, -(-iterations // EVALUATIONS))
    if OmegaConf.select(cfg, WARMUP) is not None:
        put(WARMUP, min(schedule.warmup / iterations, WARMUP_SHARE))
    if schedule.images is not None and images:
        cfg.train.reference_images = images
    return _describe(cfg, schedule, images, given)


def _describe(cfg: DictConfig, schedule: Schedule, images: int, given: Sequence[str]) -> str:
    iterations, batch = cfg.train.max_iter, cfg.dataloader.train.total_batch_size
    if is_given(MAX_ITER, given):
        why = "as given"
    elif schedule.epochs is None:
        why = "as in the config, which has no train.reference_images to fit them by"
    else:
        wanted = (
            f"{schedule.epochs:.3g} epochs as in the config would be {schedule.epochs * images / batch:,.0f}"
        )
        most = most_iterations(schedule, batch)
        seen = (
            f"{most:,}, which see as many images as the config's {schedule.iterations:,} of {schedule.batch}"
        )
        why = f"{wanted}; kept between {min(LEAST, most):,} and {seen}"
    warmup = (OmegaConf.select(cfg, WARMUP) or 0.0) * iterations
    epochs = f"{iterations * batch / images:.3g}" if images else "no"
    return (
        f"Schedule: {iterations:,} iterations of {batch} images = {epochs} epochs "
        f"of {images:,} images ({why}); warm-up {warmup:.0f}, evaluation every {cfg.train.eval_period:,}, "
        f"checkpoint every {cfg.train.checkpointer.period:,}"
    )
