"""Build the evaluator of a config: one, or several whose results are put together."""

import importlib.util
import logging
from typing import Any

import numpy as np
from detectron2.evaluation import (
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from detectron2.utils.registry import locate
from omegaconf import OmegaConf

from ..data.pictures import open_picture
from ..modeling.build import instantiate_part

logger = logging.getLogger(__name__)


def build_evaluator(cfg: Any) -> DatasetEvaluator:
    """Build ``dataloader.evaluator``: a node of a config, or a list of them.

    Panoptic quality is left out, with a message, where its package ``panopticapi`` is not installed: detectron2 would
    end with an error after the whole evaluation.
    """
    nodes = list(cfg) if OmegaConf.is_list(cfg) else [cfg]
    if importlib.util.find_spec("panopticapi") is None:
        kept = [node for node in nodes if not _is(node, COCOPanopticEvaluator)]
        if len(kept) < len(nodes):
            logger.warning("Panoptic quality is not evaluated: the package panopticapi is not installed.")
        nodes = kept
    evaluators = [_build(node) for node in nodes]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _build(node: Any) -> DatasetEvaluator:
    if _is(node, SemSegEvaluator) and "sem_seg_loading_fn" not in node:
        # detectron2's own function asks numpy for an array without a copy, which numpy 2 refuses
        node = {**node, "sem_seg_loading_fn": read_label_map}
    return instantiate_part("evaluator", node, ("reset", "process", "evaluate"))


def _is(node: Any, kind: type) -> bool:
    target = node.get("_target_") if OmegaConf.is_dict(node) else None
    target = locate(target) if isinstance(target, str) else target
    return isinstance(target, type) and issubclass(target, kind)


def read_label_map(file: str, dtype: Any = None) -> np.ndarray:
    """Return the class of every pixel, (H, W), from an image of 8-bit or 16-bit values."""
    with open_picture(file) as image:
        return np.asarray(image).astype(dtype or np.int64)
