"""``lesa zoo``: list the configs and their weights."""

import argparse
from collections.abc import Sequence

from .. import model_zoo


def main(arguments: Sequence[str]) -> int:
    """Print the table, and return the exit status."""
    argparse.ArgumentParser(prog="lesa zoo", description=__doc__).parse_args(arguments)
    print(model_zoo.available())
    return 0
