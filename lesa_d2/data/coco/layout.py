"""Where a COCO-format folder keeps its JSON files and images."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LAYOUTS = """\
  1. annotations/instances_train*.json and annotations/instances_val*.json,
     with image folders of the same suffix: train*/ and val*/ (as in COCO, e.g. train2017/)
  2. train/_annotations.coco.json and valid/_annotations.coco.json (or val/, or test/),
     with the images beside the JSON (as Roboflow exports)
  3. exactly one *.json with a folder images/, to be split into training and validation by a seed"""

ROBOFLOW_FILE = "_annotations.coco.json"


@dataclass(frozen=True)
class SplitFiles:
    """One JSON file and the folder that its file names are relative to."""

    json_file: Path
    image_root: Path


Splits = tuple[SplitFiles, SplitFiles]
"""The files for training and validation; twice the same where one JSON file is split by a seed."""


def find_splits(root: Path) -> Splits | None:
    """Return the files of a folder that has one of the accepted layouts, else None."""
    return _coco_splits(root) or _roboflow_splits(root) or _single_json_splits(root)


def explain_layout(root: Path) -> str:
    """Say what is in a folder of no accepted layout, what it lacks, and what is accepted."""
    missing = _missing_of_coco(root) or _missing_of_roboflow(root) or _missing_of_single_json(root)
    lines = [
        f"found: {_contents(root)}",
        *([f"missing: {', '.join(missing)}"] if missing else []),
        f"accepted:\n{LAYOUTS}",
    ]
    return "\n".join(lines)


def _coco_files(root: Path, split: str) -> list[SplitFiles]:
    files = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    return [SplitFiles(file, root / file.stem.removeprefix("instances_")) for file in files]


def _coco_splits(root: Path) -> Splits | None:
    train, val = _coco_files(root, "train"), _coco_files(root, "val")
    if len(train) == len(val) == 1 and all(files.image_root.is_dir() for files in train + val):
        return train[0], val[0]
    return None


def _roboflow_files(root: Path, *folders: str) -> list[SplitFiles]:
    files = [SplitFiles(root / folder / ROBOFLOW_FILE, root / folder) for folder in folders]
    return [found for found in files if found.json_file.is_file()]


def _roboflow_splits(root: Path) -> Splits | None:
    train, val = _roboflow_files(root, "train"), _roboflow_files(root, "valid", "val", "test")
    return (train[0], val[0]) if train and val else None


def _single_json_splits(root: Path) -> Splits | None:
    files = sorted(root.glob("*.json"))
    if len(files) != 1 or not (root / "images").is_dir():
        return None
    return (SplitFiles(files[0], root / "images"),) * 2


def _missing_of_coco(root: Path) -> list[str]:
    files = {split: _coco_files(root, split) for split in ("train", "val")}
    if not any(files.values()):
        return []
    return [lack for split, found in files.items() for lack in _missing_of_coco_split(split, found)]


def _missing_of_coco_split(split: str, found: list[SplitFiles]) -> Iterator[str]:
    pattern = f"annotations/instances_{split}*.json"
    if not found:
        yield pattern
    elif len(found) > 1:
        yield _one_instead_of(pattern, [files.json_file for files in found])
    elif not found[0].image_root.is_dir():
        yield f"the image folder {found[0].image_root.name}/ of annotations/{found[0].json_file.name}"


def _missing_of_roboflow(root: Path) -> list[str]:
    missing = []
    if not _roboflow_files(root, "train"):
        missing.append(f"train/{ROBOFLOW_FILE}")
    if not _roboflow_files(root, "valid", "val", "test"):
        missing.append(f"valid/{ROBOFLOW_FILE} (or val/, or test/)")
    return missing if len(missing) < 2 else []


def _missing_of_single_json(root: Path) -> list[str]:
    files, has_images = sorted(root.glob("*.json")), (root / "images").is_dir()
    if has_images and not files:
        return ["a *.json beside images/"]
    if has_images:
        return [_one_instead_of("*.json beside images/", files)]
    return [f"the folder images/ beside {files[0].name}"] if len(files) == 1 else []


def _one_instead_of(pattern: str, files: list[Path]) -> str:
    return f"one {pattern} instead of the {len(files)}: {', '.join(file.name for file in files)}"


def _contents(root: Path, most: int = 20) -> str:
    """List the folders and JSON files, two levels deep, for these decide about a layout."""
    paths = sorted({*root.glob("*"), *root.glob("*/*.json")})
    telling = [path for path in paths if path.is_dir() or path.suffix == ".json"]
    shown = [f"{path.relative_to(root)}{'/' if path.is_dir() else ''}" for path in telling[:most]]
    if len(telling) > most:
        shown.append(f"{len(telling) - most} more folders and JSON files")
    if others := len(paths) - len(telling):
        shown.append(f"{others} other file{'s' if others > 1 else ''}")
    return ", ".join(shown) or "nothing, the folder is empty"
