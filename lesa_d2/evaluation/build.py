"""Build the evaluator of a config: one, or several whose results are put together."""

import importlib.util
import logging
from typing import Any

from detectron2.config import instantiate
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator, DatasetEvaluators

logger = logging.getLogger(__name__)


def build_evaluator(cfg: Any) -> DatasetEvaluator:
    """Build ``dataloader.evaluator``: a node of a config, or a list of them.

    Panoptic quality is left out, with a message, where its package ``panopticapi`` is not installed: it would end
    the evaluation with an error after everything was computed.
    """
    found = instantiate(cfg)
    evaluators = [found] if isinstance(found, DatasetEvaluator) else list(found)
    kept = [e for e in evaluators if not isinstance(e, COCOPanopticEvaluator) or _has_panopticapi()]
    if len(kept) < len(evaluators):
        logger.warning("Panoptic quality is not evaluated: the package panopticapi is not installed.")
    return kept[0] if len(kept) == 1 else DatasetEvaluators(kept)


def _has_panopticapi() -> bool:
    return importlib.util.find_spec("panopticapi") is not None
