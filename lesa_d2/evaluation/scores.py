"""The highest score of a detector, also where it is too low for any detection to be kept."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.utils import comm
from torch import Tensor, nn


@dataclass
class HighestScore:
    """``value`` is None while the model has not scored any box."""

    value: float | None = None
    _stages: list[Tensor] = field(default_factory=list)

    def see(self, probabilities: Tensor, is_last: bool) -> None:
        """Probabilities (R, K+1) of one stage, background last; a cascade takes the mean over its stages."""
        self._stages.append(probabilities)
        if is_last:
            scores = torch.stack(self._stages).mean(0)[:, :-1]
            self._stages.clear()
            if scores.numel():
                self.value = max(self.value or 0.0, float(scores.max()))

    def over_processes(self) -> float | None:
        """Of all processes, which must all ask."""
        return max((value for value in comm.all_gather(self.value) if value is not None), default=None)


@contextlib.contextmanager
def highest_score(model: nn.Module) -> Iterator[HighestScore]:
    """While open, follows the scores that a detector in eval mode gives to any box and class."""
    highest = HighestScore()
    predictors = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]

    def watched(predictor: Any) -> Callable[..., tuple[Tensor, ...]]:
        original, is_last = predictor.predict_probs, predictor is predictors[-1]

        def predict_probs(*args: object) -> tuple[Tensor, ...]:
            probabilities = original(*args)
            highest.see(torch.cat(list(probabilities)).detach().float(), is_last)
            return probabilities

        return predict_probs

    for predictor in predictors:
        predictor.predict_probs = watched(predictor)  # every kind of heads scores its boxes by it
    try:
        yield highest
    finally:
        for predictor in predictors:
            del predictor.predict_probs
