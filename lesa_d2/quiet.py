"""Warnings of libraries about their own code, which who runs a command of ``lesa`` can do nothing about.

The commands leave them out, each by its category, its message and the module that it names; every other warning is
shown, of the user's code and of this package.  PyTorch gives some in its own name, whoever calls it: those of torch.jit
and of meshgrid are left out for a user's calls as well.  ``python -W default``, or PYTHONWARNINGS, shows them all.
``import lesa_d2`` and :class:`lesa_d2.predictor.Predictor` change nothing about the warnings of a program.
"""

import logging
import sys
import warnings
from typing import NamedTuple

DETECTRON2 = r"(detectron2|fvcore|iopath)(\.|\Z)"
TORCH = r"torch(\.|\Z)"


class Known(NamedTuple):
    """Name a warning: what its message begins with, and the modules that it may name, as regular expressions."""

    message: str
    module: str
    category: type[Warning]


WARNINGS = (
    # detectron2's model zoo finds its configs by it
    Known(r"pkg_resources is deprecated", DETECTRON2, Warning),
    # the doctor imports all that is needed
    Known(r"pkg_resources is deprecated", r"importlib\Z", Warning),
    # fvcore and detectron2 script their losses as they are imported; TorchScript is what the export of whole
    # detectors writes.  PyTorch names itself, whoever calls it, and has changed the category once.
    Known(r"`torch\.jit\.\w+` is deprecated", TORCH, FutureWarning),
    Known(r"`torch\.jit\.\w+` is deprecated", TORCH, DeprecationWarning),
    # detectron2's anchors; PyTorch says it once in a process
    Known(r"torch\.meshgrid: in an upcoming release", TORCH, UserWarning),
    # detectron2's mapper stacks the masks of pycocotools, and copies them
    Known(r"The given NumPy array is not writable", DETECTRON2, UserWarning),
    # checks of sizes by assertions of detectron2, in a trace that is compared at other sizes
    Known(r"(Converting a tensor to a Python|Iterating over a tensor)", DETECTRON2, Warning),
    Known(r"(Converting a tensor to a Python|Iterating over a tensor)", TORCH, Warning),
)
LOGGED = {
    # detectron2's report of the environment imports the module, which looks for a compiler
    "torch.utils.cpp_extension": "No CUDA runtime is found",
    # detectron2 asks whether it is traced
    "torch.fx._symbolic_trace": "is_fx_tracing will return true for both",
}
"""Names of loggers, and what the message begins with that they need not say."""


def leave_out_known_warnings() -> None:
    """Leave the known warnings out in this process, unless Python was told which to show.

    Processes that multiprocessing starts import the program's main module before anything else, so that a program
    which calls this as it is imported needs no more.
    """
    if sys.warnoptions:
        return
    for name in LOGGED:
        logging.getLogger(name).addFilter(_is_news)
    for known in WARNINGS:
        warnings.filterwarnings("ignore", known.message, known.category, known.module)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(LOGGED[record.name])
