"""What scripts that train do differently; everything else of the engine they share."""

import argparse
import contextlib
from abc import ABC, abstractmethod
from typing import ClassVar

from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig
from torch import nn

from .values import Rule


class Task(ABC):
    """A kind of model and data: its command-line arguments, its data sets, the values it knows."""

    rules: ClassVar[dict[str, Rule]]
    """Of config keys, beside those of every run."""

    examples: ClassVar[str]
    """Command lines, for ``--help``."""

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the task's own options."""

    @abstractmethod
    def use_data(self, cfg: DictConfig, args: argparse.Namespace) -> None:
        """Point a config, in place, at the data of the command line, and settle what follows from it."""

    @abstractmethod
    def check_data(self, cfg: DictConfig, eval_only: bool) -> list[str]:
        """The class names of the config's data, which must exist and agree with the model."""

    @abstractmethod
    def before_training(self, cfg: DictConfig, args: argparse.Namespace) -> None:
        """Settle, in place, what follows from the amount of data, and describe the data; on every process."""

    def reporting(
        self, cfg: DictConfig, model: nn.Module, evaluator: DatasetEvaluator
    ) -> contextlib.AbstractContextManager:
        """Around an evaluation: describe its outcome at the end, where the config asks for it."""
        return contextlib.nullcontext()
