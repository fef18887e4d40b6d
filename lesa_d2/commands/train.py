"""``lesa train``: train or evaluate a detector, or any other LazyConfig of detectron2."""

from collections.abc import Sequence
from functools import partial

from ..engine import Detection, argument_parser, launch, run
from ..tools.reports import DetectionReports


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for, and return the exit status."""
    task = Detection(DetectionReports())
    return launch(partial(run, task=task), argument_parser(task).parse_args(arguments))
