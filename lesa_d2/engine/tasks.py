"""The task that a config belongs to."""

from omegaconf import DictConfig, OmegaConf

from .classification import Classification
from .detection import Detection
from .task import Task


def task_of(cfg: DictConfig) -> Task:
    """What the config's model is for: detection where it has RoI heads, else classification."""
    return Classification() if OmegaConf.select(cfg, "model.roi_heads") is None else Detection()
