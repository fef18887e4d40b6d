"""Training and evaluation of any LazyConfig: tasks, processes, runs and models."""

from ..config import load_any_config, load_config
from .classification import Classification
from .detection import Detection, dataset_names
from .evaluating import evaluate
from .launch import argument_parser, launch, separate_overrides
from .models import build_model, last_checkpoint, load_evaluated, load_trained
from .run import run
from .task import TASKS, Reporter, Task, register_task, task_of
from .trainer import Trainer
from .training import train

__all__ = [
    "TASKS",
    "Classification",
    "Detection",
    "Reporter",
    "Task",
    "Trainer",
    "argument_parser",
    "build_model",
    "dataset_names",
    "evaluate",
    "last_checkpoint",
    "launch",
    "load_any_config",
    "load_config",
    "load_evaluated",
    "load_trained",
    "register_task",
    "run",
    "separate_overrides",
    "task_of",
    "train",
]
