"""Find files of annotations below a folder."""

from pathlib import Path


def find_files(root: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern in a folder and up to two folders below it, sorted, without hidden ones."""
    found = {file for above in ("", "*/", "*/*/") for file in root.glob(above + pattern)}
    hidden = {file for file in found if any(name.startswith(".") for name in file.relative_to(root).parts)}
    return sorted(file for file in found - hidden if file.is_file())
