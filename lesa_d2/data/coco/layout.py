"""Find the JSON files and images of a COCO-format folder."""

from dataclasses import dataclass
from pathlib import Path

LAYOUTS = """\
  1. annotations/instances_train*.json and annotations/instances_val*.json,
     with image folders of the same suffix: train*/ and val*/ (as in COCO, e.g. train2017/)
  2. train/_annotations.coco.json and valid/_annotations.coco.json (or val/, or test/),
     with the images beside the JSON (as Roboflow exports)
  3. exactly one *.json with a folder images/, to be split into training and validation by a seed"""

ROBOFLOW_FILE = "_annotations.coco.json"
ROBOFLOW_FOLDERS = (
    "train",
    "valid",
    "val",
    "test",
)  # one of the others is for validation, the first there is


@dataclass(frozen=True)
class SplitFiles:
    """Name a JSON file and the folder that its file names are relative to."""

    json_file: Path
    image_root: Path


Found = tuple[list[SplitFiles], list[str]]
"""The files for training and validation, and what is missing; both are empty where nothing hints at a layout."""


def find_splits(root: Path) -> tuple[SplitFiles, SplitFiles] | None:
    """Return the files for training and validation of a folder that has one of the accepted layouts, else None.

    Both are the same where one JSON file is to be split by a seed.
    """
    for files, missing in _layouts(root):
        if files and not missing:
            return files[0], files[-1]
    return None


def explain_layout(root: Path) -> str:
    """Say what is in a folder of no accepted layout, what it lacks, and what is accepted."""
    lines = [f"found: {_contents(root)}"]
    if missing := next((missing for _, missing in _layouts(root) if missing), None):
        lines.append(f"missing: {', '.join(missing)}")
    return "\n".join([*lines, f"accepted:\n{LAYOUTS}"])


def _layouts(root: Path) -> list[Found]:
    return [_coco(root), _roboflow(root), _single_json(root)]


def _coco(root: Path) -> Found:
    files, missing = [], []
    for split in ("train", "val"):
        pattern = f"annotations/instances_{split}*.json"
        found = [
            SplitFiles(file, root / file.stem.removeprefix("instances_"))
            for file in sorted(root.glob(pattern))
        ]
        if len(found) != 1:
            missing.append(_one_instead_of(pattern, found) if found else pattern)
        elif not found[0].image_root.is_dir():
            folder, file = found[0].image_root.name, found[0].json_file.name
            missing.append(f"the image folder {folder}/ of annotations/{file}")
        files += found
    return (files, missing) if files else ([], [])


def _roboflow(root: Path) -> Found:
    all_files = [SplitFiles(root / name / ROBOFLOW_FILE, root / name) for name in ROBOFLOW_FOLDERS]
    train, *others = [files if files.json_file.is_file() else None for files in all_files]
    val = next(filter(None, others), None)
    wanted = {f"train/{ROBOFLOW_FILE}": train, f"valid/{ROBOFLOW_FILE} (or val/, or test/)": val}
    files = [found for found in wanted.values() if found]
    return (files, [name for name, found in wanted.items() if not found]) if files else ([], [])


def _single_json(root: Path) -> Found:
    files = [SplitFiles(file, root / "images") for file in sorted(root.glob("*.json"))]
    if not (root / "images").is_dir():
        return ([], [f"the folder images/ beside {files[0].json_file.name}"]) if len(files) == 1 else ([], [])
    if len(files) == 1:
        return files, []
    return [], [_one_instead_of("*.json beside images/", files) if files else "a *.json beside images/"]


def _one_instead_of(pattern: str, found: list[SplitFiles]) -> str:
    names = ", ".join(files.json_file.name for files in found)
    return f"one {pattern} instead of the {len(found)}: {names}"


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
