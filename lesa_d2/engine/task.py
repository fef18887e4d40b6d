"""What is trained: the part of a command that depends on the kind of model and data."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Protocol

from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig

from ..errors import ConfigError

Derivation = Callable[[DictConfig], None]
"""Changes a config, in place, by what follows from the data."""


class Reporter(Protocol):
    """Write what people look at: reports of the data and of evaluations."""

    def report_data(self, cfg: DictConfig, args: argparse.Namespace) -> str:
        """Write the report of the data into the run's folder; return its text."""

    def report_evaluation(self, cfg: DictConfig, evaluator: DatasetEvaluator) -> str:
        """Write the report of an evaluation into the run's folder; return its text."""


class Task(ABC):
    """Hold what one run derives from its data; a new one is made for every run.

    Args:
        reporter: writes reports where the config asks for them; None writes none.

    Attributes:
        notes: lines about what was derived, for the log.
    """

    name: ClassVar[str]
    """The value of ``train.task`` in its configs."""

    command: ClassVar[str]
    """The command that trains it."""

    examples: ClassVar[str]
    """Command lines, for ``--help``."""

    def __init__(self, reporter: Reporter | None = None) -> None:
        self.reporter = reporter
        self.notes: list[str] = []

    def check_kind(self, cfg: DictConfig) -> None:
        """Check that a config is one of this task.

        Raises:
            ConfigError: it is of another task; names the command for it.
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
        """Return what changes a config by the data of the command line, in order.

        Overrides are applied before the first and again after each: what is typed comes last.

        Args:
            written: the config as its file has it.
            args: the command line.
        """

    @abstractmethod
    def check_data(self, cfg: DictConfig, eval_only: bool) -> None:
        """Check that the config's data are there and agree with the model, and note the names of the classes.

        Raises:
            LesaError: they are not, or do not.
        """

    @abstractmethod
    def describe(self, cfg: DictConfig) -> Iterator[tuple[str, str]]:
        """Yield lines of the start report about the data."""


TASKS: dict[str, type[Task]] = {}
"""Tasks by the value of ``train.task``."""


def register_task(task: type[Task]) -> type[Task]:
    """Make a task known by its name."""
    TASKS[task.name] = task
    return task


def task_of(cfg: DictConfig) -> type[Task]:
    """Return the task that a config says it is for."""
    return TASKS[cfg.train.task]
