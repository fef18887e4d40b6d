"""``lesa pretrain``: train or evaluate a classifier on a folder of pictures for each class."""

from collections.abc import Sequence
from functools import partial

from ..engine import Classification, argument_parser, launch, run


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for, and return the exit status."""
    task = Classification()
    return launch(partial(run, task=task), argument_parser(task).parse_args(arguments))
