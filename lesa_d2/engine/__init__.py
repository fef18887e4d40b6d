"""What the scripts share: configs and overrides, launching, training, evaluation."""

from .launch import argument_parser, launch
from .overrides import load_config
from .run import evaluate, main, train
from .trainer import Trainer

__all__ = ["Trainer", "argument_parser", "evaluate", "launch", "load_config", "main", "train"]
