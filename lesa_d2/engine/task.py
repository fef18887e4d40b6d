"""Tasks: the part of a command that depends on the kind of model and data."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Protocol

from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig

from ..errors import ConfigError

Derivation = Callable[[DictConfig], None]
"""A function that changes a config, in place, to fit its data."""


class Reporter(Protocol):
    """Write reports of data and of evaluations for people."""

    def report_data(self, cfg: DictConfig, args: argparse.Namespace) -> str:
        """Write the report of the data into the run's folder; return its text."""

    def report_evaluation(self, cfg: DictConfig, evaluator: DatasetEvaluator, is_last: bool) -> str:
        """Write the report of an evaluation, which may be the run's last, into its folder; return its text."""


class Task(ABC):
    """Adapt a config to its data, and check both; every run has its own object.

    Args:
        reporter: writes reports if the config asks for them; None writes none.

    Attributes:
        notes: lines for the log about what was derived from the data.
        later: the time that follows this run, in steps of this run; the remaining time in the log includes it.
    """

    name: ClassVar[str]
    """The value of ``train.task`` in its configs."""

    command: ClassVar[str]
    """The command that trains it."""

    trains: ClassVar[str]
    """What it trains, for ``--help``."""

    examples: ClassVar[str]
    """Command lines, for ``--help``."""

    def __init__(self, reporter: Reporter | None = None) -> None:
        self.reporter = reporter
        self.notes: list[str] = []
        self.later = 0

    def check_kind(self, cfg: DictConfig) -> None:
        """Check that a config is one of this task.

        Raises:
            ConfigError: it is of another task; the message names the command for it.
        """
        if cfg.train.task != self.name:
            other = TASKS.get(cfg.train.task)
            advice = f"; {other.command} takes it" if other else ""
            raise ConfigError(
                f"this config is for {cfg.train.task} (train.task), and {self.command} is for {self.name}{advice}"
            )

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the task's own options."""

    @abstractmethod
    def derivations(self, written: DictConfig, args: argparse.Namespace) -> Sequence[Derivation]:
        """Return the steps that change a config to fit the data of the command line, in order.

        Overrides are applied before the first step and again after each step, so that they are never lost.

        Args:
            written: the content of the config file, without changes.
            args: the command line.
        """

    @abstractmethod
    def check_data(self, cfg: DictConfig, eval_only: bool) -> None:
        """Check that the config's data exist and fit the model, and write the names of the classes into the config.

        Raises:
            LesaError: they do not.
        """

    @abstractmethod
    def describe(self, cfg: DictConfig) -> Iterator[tuple[str, str]]:
        """Yield titles and texts of lines about the data, for the start report."""


TASKS: dict[str, type[Task]] = {}
"""Tasks by the value of ``train.task``."""


def register_task(task: type[Task]) -> type[Task]:
    """Register a task under its name."""
    TASKS[task.name] = task
    return task


def task_of(cfg: DictConfig) -> type[Task]:
    """Return the task that a config names."""
    return TASKS[cfg.train.task]
