"""What the scripts share: configs and overrides, launching, training, evaluation."""

from ..config import load_any_config, load_yacs_config
from ..config.lazy import is_given, load_config
from ..modeling.build import build_yacs_model
from .classification import Classification
from .detection import Detection, dataset_names
from .launch import argument_parser, launch, separate_overrides
from .run import evaluate, load_trained, main, run_command_line, task_of, train
from .trainer import Trainer

__all__ = [
    "Classification",
    "Detection",
    "Trainer",
    "argument_parser",
    "build_yacs_model",
    "dataset_names",
    "evaluate",
    "is_given",
    "launch",
    "load_any_config",
    "load_config",
    "load_trained",
    "load_yacs_config",
    "main",
    "run_command_line",
    "separate_overrides",
    "task_of",
    "train",
]
