"""Tell from names of files and folders which part of a data set they hold."""

import re
from pathlib import PurePath

PARTS = {
    "train": {"train", "training", "trainset"},
    "val": {"val", "valid", "validation", "valset", "dev", "eval", "evaluation", "holdout"},
    "test": {"test", "testing", "testset"},
}
_SPLIT = re.compile(r"[^a-z]+")


def part_of_name(name: str) -> str | None:
    """Return "train", "val" or "test" for a name such as ``instances_train2017``; None for one of no single part."""
    words = set(_SPLIT.split(name.lower()))
    found = [part for part, known in PARTS.items() if words & known]
    return found[0] if len(found) == 1 else None


def part_of_folder(folder: str | PurePath) -> str | None:
    """Return the part that the last telling name of a path says."""
    names = reversed(PurePath(folder).parts)
    return next(filter(None, map(part_of_name, names)), None)


def part_of_file(file: PurePath, root: PurePath) -> str | None:
    """Return the part of a JSON file from its name, else from the folders between it and ``root``."""
    words = set(_SPLIT.split(file.stem.lower()))
    if "trainval" in words or len(words & set().union(*PARTS.values())) > 1:
        return None
    return part_of_name(file.stem) or part_of_folder(file.relative_to(root).parent)
