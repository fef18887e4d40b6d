"""The console entry ``lesa COMMAND``; the scripts of the repository call the same functions."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from functools import partial

from . import __version__
from .errors import LesaError, exit_status
from .install_detectron2 import COMMAND as INSTALL_DETECTRON2
from .quiet import leave_out_known_warnings

leave_out_known_warnings()  # here, as processes that multiprocessing starts import this module and call nothing in it

COMMANDS = {
    "train": "train or evaluate a detector, or any other LazyConfig of detectron2",
    "pretrain": "train or evaluate a classifier on a folder of pictures for each class",
    "demo": "draw predictions on images, video or a camera, several models side by side",
    "predict": "write predictions for any number of pictures as COCO results, by several processes",
    "export": "write backbone and FPN as torch.export and ONNX files",
    "convert": "convert a checkpoint of the authors or of torchvision",
    "inspect": "show what the unary and the binary term contribute",
    "compare": "train several operators or detectors with several seeds",
    "benchmark": "measure time and memory, or compute what a config costs",
    "doctor": "check the environment, a config, a data set and a checkpoint",
    "zoo": "list the configs and their weights",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lesa COMMAND …`` and return its exit status: 0 done, 2 a user's error, 130 interrupted."""
    # Threads that wait at a barrier soon sleep instead of spinning: on a CPU shared with other work that makes
    # training several times faster.  OpenMP reads it when torch is loaded, which no command has done yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    command, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    return exit_status(partial(_run, command, rest))


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  {name:<10} {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join(
        ["usage: lesa COMMAND …", "", *lines, "", "lesa COMMAND --help lists a command's options."]
    )


def _run(command: str, arguments: Sequence[str]) -> int:
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command == "--version":
        print(f"lesa_d2 {__version__}")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(COMMANDS)}"
        raise LesaError(f"unknown command {command!r}; {advice}")
    try:
        return importlib.import_module(f"{__package__}.commands.{command}").main(arguments) or 0
    except ModuleNotFoundError as error:
        if error.name != "detectron2":
            raise
        raise LesaError(
            f"detectron2 is not installed, and lesa {command} needs it. Build it as its guide says, or take the copy "
            f"in the PyPI package LabGym: {INSTALL_DETECTRON2}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
