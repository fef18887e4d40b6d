"""Names of other libraries that they do not promise to keep, each with the reason why it is needed.

Nothing else in the package uses such names, or changes other libraries.  Tested with torch 2.6 to 2.14, torchvision
0.21 to 0.29, detectron2 0.6 (main branch) and omegaconf 2.3; tests/test_compat.py fails when one of them changes.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torchvision  # noqa: F401, registers its operators

# PyTorch documents TorchDispatchMode under "Extending PyTorch" by this private module, and its trees nowhere.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

if TYPE_CHECKING:
    from detectron2.evaluation import COCOEvaluator
    from detectron2.utils.events import EventStorage
    from pycocotools.cocoeval import COCOeval

__all__ = [
    "CPU_ATTENTION",
    "DEFORM_CONV_BACKWARD",
    "TorchDispatchMode",
    "at_exit",
    "foreach_copy_",
    "forget_process_groups",
    "fresh_logger",
    "is_inside_backward",
    "keep_evaluations",
    "name_in_scope",
    "release_logger",
    "tree_leaves",
    "tree_map_only",
    "version_of",
    "without_process_group",
]

DEFORM_CONV_BACKWARD = torch.ops.torchvision._deform_conv2d_backward
"""The backward pass of torchvision's ``deform_conv2d``; the memory that it takes inside has to be known."""
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""What ``scaled_dot_product_attention`` runs on a CPU; PyTorch's FLOP counter does not know it."""
foreach_copy_ = torch._foreach_copy_
"""Copy a list of tensors into another in one launch; PyTorch documents some of these functions, not this one."""

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


def forget_process_groups() -> None:
    """Drop detectron2's references to process groups that were destroyed.

    The threads of a group end with the last reference to it, and detectron2 has no function that gives up its own.
    """
    from detectron2.utils import comm  # the layers import this module, and need torch alone

    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    comm.create_local_process_group.cache_clear()


def without_process_group() -> AbstractContextManager[object]:
    """Have norms that share their statistics, and all else that asks, find this process alone while open.

    PyTorch's SyncBatchNorm and detectron2's norms ask ``torch.distributed.is_initialized``, and have no switch.
    """
    return patch.object(torch.distributed, "is_initialized", return_value=False)


def is_inside_backward() -> bool:
    """Return whether the calling thread is inside a backward pass of autograd.

    A forward pass there is a repetition by activation checkpointing, which must not move running statistics again.
    PyTorch has no public question for it: ``torch.utils.checkpoint`` and the hooks of autograd use this one.
    """
    return torch._C._current_graph_task_id() != -1


def keep_evaluations(evaluator: "COCOEvaluator", keep: Callable[[str, "COCOeval | None"], object]) -> None:
    """Have ``keep`` called with the kind ("bbox", "segm") and accumulated COCOeval of every evaluation.

    The COCOeval is None where there is not a single detection.

    detectron2's evaluator returns its numbers alone, and reports of classes need the precision at every threshold;
    to compute it again would take as long as the evaluation.
    """
    derive = evaluator._derive_coco_results

    def derive_and_keep(coco_eval: "COCOeval | None", iou_type: str, **options: Any) -> dict[str, float]:
        keep(iou_type, coco_eval)
        return derive(coco_eval, iou_type, **options)

    evaluator._derive_coco_results = derive_and_keep


def at_exit(function: Callable[[], object]) -> None:
    """Have a function called when this process ends, before multiprocessing waits for the processes it has started.

    Python's ``atexit`` is too late in a process that multiprocessing started itself.
    """
    Finalize(None, function, exitpriority=100)


def name_in_scope(storage: "EventStorage", name: str) -> str:
    """Return the name that a scalar gets that is put into the storage now, within its ``name_scope``."""
    return storage._current_prefix + name


def version_of(tensor: torch.Tensor) -> int:
    """Return a number that grows with every change in place, but for those through ``.data`` or NumPy.

    Raises:
        RuntimeError: it is a tensor of inference mode.
    """
    return tensor._version
