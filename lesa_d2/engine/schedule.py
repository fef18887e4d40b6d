"""The schedule of a detector for a data set of another size than that of its config."""

from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

LEAST = 1000
"""Least number of iterations: new heads on ImageNet weights need about as many, even for a small data set."""

EVALUATIONS = 5
WARMUP_SHARE = 0.2  # greatest share of a run
WARMUP = "lr_multiplier.warmup_length"


@dataclass(frozen=True)
class Schedule:
    """Hold the schedule of a config file.

    Attributes:
        iterations: of the whole run.
        batch: images in one iteration.
        images: images of the data set that the number of iterations was chosen for; None if the config does not say.
        warmup: iterations in which the learning rate rises.
    """

    iterations: int
    batch: int
    images: int | None
    warmup: float

    @classmethod
    def of(cls, cfg: DictConfig) -> "Schedule":
        """Read the schedule of a config."""
        return cls(
            iterations=cfg.train.max_iter,
            batch=cfg.dataloader.train.total_batch_size,
            images=cfg.train.reference_images,
            warmup=(OmegaConf.select(cfg, WARMUP) or 0.0) * cfg.train.max_iter,
        )

    @property
    def epochs(self) -> float | None:
        """Return the epochs of the run; None if the config does not say for how many images it was written."""
        return self.iterations * self.batch / self.images if self.images else None

    def most(self, batch: int) -> int:
        """Return the number of iterations with ``batch`` images that see as many images as those of the config."""
        return max(1, round(self.iterations * self.batch / batch))

    def fitted(self, images: int, batch: int) -> int:
        """Return the iterations of the config's epochs on ``images``: at least LEAST, at most :meth:`most`.

        The least number gives small data sets enough steps to learn.  With the greatest number, large data sets are
        trained on as many images as the config prescribes; a config with fewer iterations than LEAST keeps its own.
        """
        if self.epochs is None:
            return self.iterations
        return min(max(round(self.epochs * images / batch), LEAST), self.most(batch))


def fit_iterations(cfg: DictConfig, schedule: Schedule, images: int) -> None:
    """Set ``train.max_iter``, in place, for a number of training images with objects."""
    cfg.train.max_iter = schedule.fitted(images, cfg.dataloader.train.total_batch_size)
    if schedule.images is not None and images:
        cfg.train.reference_images = images


def fit_periods(cfg: DictConfig, schedule: Schedule, images: int) -> str:
    """Set, in place, what depends on ``train.max_iter``; return a line that explains the schedule.

    The run has EVALUATIONS evaluations and checkpoints at equal distances; the warm-up keeps its iterations, but takes
    at most WARMUP_SHARE of the run.
    """
    iterations = cfg.train.max_iter
    cfg.train.eval_period = cfg.train.checkpointer.period = -(-iterations // EVALUATIONS)
    if OmegaConf.select(cfg, WARMUP) is not None:
        cfg.lr_multiplier.warmup_length = min(schedule.warmup / iterations, WARMUP_SHARE)
    return _described(iterations, cfg.dataloader.train.total_batch_size, schedule, images)


def _described(iterations: int, batch: int, schedule: Schedule, images: int) -> str:
    if iterations != schedule.fitted(images, batch):
        why = "as given"
    elif schedule.epochs is None:
        why = "as in the config, which has no train.reference_images to fit them by"
    else:
        most = schedule.most(batch)
        wanted = schedule.epochs * images / batch
        why = (
            f"{schedule.epochs:.3g} epochs as in the config would be {wanted:,.0f}; kept between "
            f"{min(LEAST, most):,} and {most:,}, which see as many images as the config's "
            f"{schedule.iterations:,} of {schedule.batch}"
        )
    epochs = f"{iterations * batch / images:.3g}" if images else "no"
    return f"Schedule: {iterations:,} iterations of {batch} images = {epochs} epochs of {images:,} images ({why})"
