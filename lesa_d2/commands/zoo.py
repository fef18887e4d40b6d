"""``lesa zoo``: list the configs and their weights."""

from collections.abc import Sequence

from .. import model_zoo


def main(arguments: Sequence[str]) -> int:
    """Print the table, and return the exit status."""
    return model_zoo.main(arguments)
