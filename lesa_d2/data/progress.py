"""Show the progress of long work on data."""

from collections.abc import Iterable
from typing import TypeVar

from detectron2.utils import comm
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Return the items with a progress bar, which the main process alone shows."""
    return tqdm(items, description, total, mininterval=1, disable=not comm.is_main_process())
