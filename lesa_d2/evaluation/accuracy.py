"""Measure the accuracy of classifiers."""

from collections import OrderedDict
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor


class TopAccuracy(DatasetEvaluator):
    """Count the images whose class has the highest logit (top1), or one of the five highest (top5)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self._hits = torch.zeros(3, dtype=torch.long)  # top1, top5, images

    def process(self, inputs: dict[str, Tensor], outputs: Tensor) -> None:
        """Count a batch: inputs["label"] (N,), outputs: logits (N, K)."""
        best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices.cpu()
        hits = best == inputs["label"].cpu()[:, None]
        self._hits += torch.stack([hits[:, 0].sum(), hits.any(1).sum(), torch.tensor(len(hits))])

    def evaluate(self) -> dict[str, Any]:
        """Return the percentages over all processes on the main one, and nothing on others."""
        gathered = comm.gather(self._hits)
        if not comm.is_main_process():
            return {}
        top1, top5, total = (float(count) for count in sum(gathered))
        return OrderedDict(accuracy={"top1": 100 * top1 / max(total, 1), "top5": 100 * top5 / max(total, 1)})
