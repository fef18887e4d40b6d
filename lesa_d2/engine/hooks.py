"""Training hooks that detectron2 does not have."""

import json
from pathlib import Path

from detectron2.engine import hooks
from torch import nn

from ..checkpoint import WeightsWriter


class BestCheckpointer(hooks.BestCheckpointer):
    """Save the evaluated weights with the best metric, as detectron2's hook; keep that metric across ``--resume``."""

    def __init__(self, eval_period: int, evaluated: nn.Module, output_dir: str, metric: str) -> None:
        super().__init__(eval_period, WeightsWriter(evaluated, output_dir), metric)
        # It has its own file, as the checkpoints of a run are written before the evaluation of their iteration.
        self._record = Path(output_dir) / "model_best.json"

    def before_train(self) -> None:
        """Read the best metric of a run that is resumed."""
        if self.trainer.start_iter and self._record.is_file():
            record = json.loads(self._record.read_text(encoding="utf-8"))
            self.best_metric, self.best_iter = record["metric"], record["iteration"]

    def _update_best(self, val: float, iteration: int) -> bool:
        is_finite = super()._update_best(val, iteration)
        if is_finite:
            record = {"metric": val, "iteration": iteration, "name": self._val_metric}
            self._record.write_text(json.dumps(record) + "\n", encoding="utf-8")
        return is_finite
