"""Hooks beyond detectron2's."""

from typing import Any

from detectron2.engine import hooks
from torch import nn

from ..checkpoint import WeightsWriter


class BestCheckpointer(hooks.BestCheckpointer):
    """detectron2's, for the weights that were evaluated, remembering the best metric across ``--resume``."""

    def __init__(self, eval_period: int, evaluated: nn.Module, output_dir: str, metric: str) -> None:
        super().__init__(eval_period, WeightsWriter(evaluated, output_dir), metric)

    def state_dict(self) -> dict[str, Any]:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_metric, self.best_iter = state_dict["best_metric"], state_dict["best_iter"]
