"""Names of other libraries that they do not promise to keep, each with the reason why it is needed.

Nothing else in the package uses such names, or changes other libraries.  Tested with torch 2.6 to 2.14, torchvision
0.21 to 0.29, detectron2 0.6 (main branch) and omegaconf 2.3; tests/test_compat.py fails when one of them changes.
"""

import logging

import torch
import torchvision  # noqa: F401, registers its operators
from detectron2.utils.logger import setup_logger

# PyTorch documents TorchDispatchMode under "Extending PyTorch" by this private module, and its trees nowhere.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = [
    "CPU_ATTENTION",
    "DEFORM_CONV_BACKWARD",
    "TorchDispatchMode",
    "fresh_logger",
    "release_logger",
    "tree_leaves",
    "tree_map_only",
]

DEFORM_CONV_BACKWARD = torch.ops.torchvision._deform_conv2d_backward
"""The backward pass of torchvision's ``deform_conv2d``; the memory that it takes inside has to be known."""
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""What ``scaled_dot_product_attention`` runs on a CPU; PyTorch's FLOP counter does not know it."""

_ours: dict[str, list[logging.Handler]] = {}


def fresh_logger(name: str, folder: str, rank: int) -> logging.Logger:
    """Set up a logger by detectron2's ``setup_logger``, until :func:`release_logger`.

    ``setup_logger`` is cached by its arguments and adds handlers at every call: its cache has to be cleared, and its
    handlers removed, or a second run in the process would log into the folder of the first.
    """
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
