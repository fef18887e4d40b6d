"""What the scripts share: configs and overrides, launching, training, evaluation."""

from .dataset import dataset_names
from .launch import argument_parser, launch
from .overrides import is_given, load_config
from .run import evaluate, load_trained, main, train
from .trainer import Trainer

__all__ = [
    "Trainer",
    "argument_parser",
    "dataset_names",
    "evaluate",
    "is_given",
    "launch",
    "load_config",
    "load_trained",
    "main",
    "train",
]
