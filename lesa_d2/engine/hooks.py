"""Hooks beyond detectron2's."""

from typing import Any

from detectron2.engine import hooks


class BestCheckpointer(hooks.BestCheckpointer):
    """detectron2's, remembering the best metric across ``--resume``."""

    def state_dict(self) -> dict[str, Any]:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_metric, self.best_iter = state_dict["best_metric"], state_dict["best_iter"]
