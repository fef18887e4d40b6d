"""Training hooks that detectron2 does not have: what a run saves, and that nothing of it is lost."""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, get_event_storage
from torch import nn

from ..checkpoint import FINAL, RunCheckpointer, WeightsWriter, periodic_files
from ..storage import remove_unfinished, write_text

logger = logging.getLogger("lesa_d2")


class Progress(CommonMetricPrinter):
    """Print progress as detectron2 does, with the remaining time of this run and of what follows it.

    Args:
        max_iter: steps of this run.
        later: the time that follows it, in steps of this run.
    """

    def __init__(self, max_iter: int, later: int) -> None:
        super().__init__(max_iter + later)
        self.steps = max_iter

    def write(self) -> None:
        """Print a line, except after the last step."""
        if get_event_storage().iter < self.steps:
            super().write()


class Saver(HookBase):
    """Save the state of a run: every ``period`` steps, every ``minutes``, at the end, and when it is asked to.

    Args:
        checkpointer: writes the files.
        period: steps between two checkpoints.
        max_to_keep: checkpoints that are kept beside the final one, those of earlier starts of the run included; None
            keeps all.
        minutes: longest time between two checkpoints; None sets no limit.
    """

    def __init__(
        self, checkpointer: RunCheckpointer, period: int, max_to_keep: int | None, minutes: float | None
    ) -> None:
        self.checkpointer = checkpointer
        self.period, self.max_to_keep, self.minutes = period, max_to_keep, minutes
        self._saved = -1  # the last step in a checkpoint
        self._time = time.monotonic()

    def before_train(self) -> None:
        """Remove what a process that was killed has left, and the old checkpoints that it has not removed."""
        remove_unfinished(self.checkpointer.save_dir)
        self._saved = self.trainer.last_step
        self._remove_old(self._saved)

    def after_step(self) -> None:
        """Save the state if it is time."""
        is_late = self.minutes is not None and time.monotonic() - self._time >= 60 * self.minutes
        if is_late or (self.trainer.iter + 1) % self.period == 0:
            self.save()

    def after_train(self) -> None:
        """Save the final state, unless the run was continued from it."""
        step = self.trainer.last_step
        is_there = Path(self.checkpointer.resumed_from).stem == FINAL and step < self.trainer.start_iter
        if not is_there:
            self.checkpointer.save(FINAL, iteration=step)
            self._saved = step

    def save(self) -> int:
        """Save the state after the last step, if it is not saved yet; return the number of steps that are saved.

        Checkpoints beyond ``max_to_keep`` are removed.
        """
        step = self.trainer.last_step
        if step > self._saved:
            self.checkpointer.save(f"model_{step:07d}", iteration=step)
            self._saved = step
            self._remove_old(step)
        self._time = time.monotonic()
        return self._saved + 1

    def _remove_old(self, step: int) -> None:
        """Remove the oldest files; those of later steps, left by an earlier start of the run, will be replaced."""
        if self.max_to_keep is not None:
            files = periodic_files(self.checkpointer.save_dir)
            for file in [file for done, file in files if done <= step][: -self.max_to_keep]:
                file.unlink(missing_ok=True)


class Evaluation(hooks.EvalHook):
    """Evaluate every ``period`` steps and at the end, as detectron2's hook, and keep the best weights.

    Args:
        period: steps between two evaluations; 0 evaluates at the end only.
        evaluate: returns results by task, on the main process.
        best: the best weights; None keeps none.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict[str, Any]], best: "Best | None") -> None:
        super().__init__(period, self._evaluate_and_keep)
        self.period = period
        self._evaluate = evaluate
        self._best = best

    def before_train(self) -> None:
        """Evaluate where a run that was killed had saved its state, but not finished the evaluation of that step."""
        start = self.trainer.start_iter
        if not start or self._best is None:
            return
        self._best.read()
        is_due = self.period > 0 and start % self.period == 0
        is_missed = is_due and self._best.evaluated != self.trainer.last_step
        if start < self.trainer.max_iter and comm.all_gather(is_missed)[0]:
            logger.info("Evaluating step %d again: the run ended before its evaluation did", start - 1)
            results = flatten_results_dict(self._evaluate_and_keep())
            self.trainer.storage.put_scalars(**results, smoothing_hint=False)

    def _evaluate_and_keep(self) -> dict[str, Any]:
        results = self._evaluate()
        if self._best is not None and comm.is_main_process():
            self._best.update(flatten_results_dict(results), self.trainer.last_step)
        return results


class Best:
    """Keep the weights with the highest value of a metric in ``model_best.pth``, and the value beside them.

    The weights are written before the record that praises them.

    Args:
        model: what is evaluated.
        folder: of the run.
        metric: such as "segm/AP".

    Attributes:
        evaluated: the last step whose weights were evaluated, counted from 0; -1 for none.
    """

    def __init__(self, model: nn.Module, folder: str, metric: str) -> None:
        self.writer = WeightsWriter(model, folder)
        self.file = Path(folder) / "model_best.json"
        self.metric = metric
        self.value: float | None = None
        self.step = self.evaluated = -1

    def read(self) -> None:
        """Read the record of a run that is continued.

        One that cannot be read, or is of another metric, counts as none, with a warning.
        """
        if not self.file.is_file():
            return
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            value, step, evaluated = content["metric"], content["iteration"], content.get("evaluated", -1)
            is_value = value is None or (type(value) in (int, float) and math.isfinite(value))
            if not is_value or type(step) is not int or type(evaluated) is not int:
                raise ValueError("metric or iteration is no number")
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            logger.warning("%s cannot be read (%s): the best value so far is not known", self.file, error)
            return
        if (name := content.get("name", self.metric)) != self.metric:
            logger.warning("%s is of %s: the best %s so far is not known", self.file, name, self.metric)
        else:
            self.value, self.step, self.evaluated = value, step, evaluated

    def update(self, results: dict[str, float], step: int) -> None:
        """Save the weights after ``step`` if they are the best so far, and write the record."""
        value = results.get(self.metric)
        if value is None:
            logger.warning("There is no metric %s in the results: model_best.pth is not written", self.metric)
            return
        if math.isfinite(value) and (self.value is None or value > self.value):
            logger.info("Best %s so far: %.5f after step %d", self.metric, value, step)
            self.writer.save("model_best", iteration=step)
            self.value, self.step = value, step
        self.evaluated = step
        record = {"metric": self.value, "iteration": self.step, "name": self.metric, "evaluated": step}
        write_text(self.file, json.dumps(record) + "\n")
