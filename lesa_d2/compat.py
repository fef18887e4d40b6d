"""Names of other libraries that they do not promise to keep, each with the reason why it is needed.

Nothing else in the package uses such names, or changes other libraries.  Tested with torch 2.6 to 2.14, torchvision
0.21 to 0.29, detectron2 0.6 (main branch) and omegaconf 2.3; tests/test_compat.py fails when one of them changes.
"""

import logging
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from detectron2.evaluation import COCOEvaluator
    from pycocotools.cocoeval import COCOeval

_ours: dict[str, list[logging.Handler]] = {}


def fresh_logger(name: str, folder: str, rank: int) -> logging.Logger:
    """Set up a logger by detectron2's ``setup_logger``, until :func:`release_logger`.

    ``setup_logger`` is cached by its arguments and adds handlers at every call: its cache has to be cleared, and its
    handlers removed, or a second run in the process would log into the folder of the first.
    """
    from detectron2.utils.logger import setup_logger  # the layers import this module, and need torch alone

    release_logger(name)
    logger = logging.getLogger(name)
    before = list(logger.handlers)
    setup_logger.cache_clear()
    setup_logger(folder, distributed_rank=rank, name=name)
    _ours[name] = [handler for handler in logger.handlers if handler not in before]
    return logger


def release_logger(name: str) -> None:
    """Remove the handlers that :func:`fresh_logger` added; those of the host program stay."""
    for handler in _ours.pop(name, []):
        logging.getLogger(name).removeHandler(handler)


def is_inside_backward() -> bool:
    """Return whether the calling thread is inside a backward pass of autograd.

    A forward pass there is a repetition by activation checkpointing, which must not move running statistics again.
    PyTorch has no public question for it: ``torch.utils.checkpoint`` and the hooks of autograd use this one.
    """
    return torch._C._current_graph_task_id() != -1


class KeepEvaluation(Protocol):
    """What :func:`keep_evaluations` calls."""

    def __call__(self, kind: str, evaluation: "COCOeval | None") -> None:
        """Receive the evaluation of one kind ("bbox", "segm"); None where there is not a single detection."""


def keep_evaluations(evaluator: "COCOEvaluator", keep: KeepEvaluation) -> None:
    """Have ``keep`` called with every accumulated COCOeval that ``evaluator`` makes.

    detectron2's evaluator returns its numbers alone, and reports of classes need the precision at every threshold;
    to compute it again would take as long as the evaluation.
    """
    derive = evaluator._derive_coco_results

    def derive_and_keep(coco_eval: "COCOeval | None", iou_type: str, **options: Any) -> dict[str, float]:
        keep(iou_type, coco_eval)
        return derive(coco_eval, iou_type, **options)

    evaluator._derive_coco_results = derive_and_keep
