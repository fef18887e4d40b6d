"""Find and read files of annotations below a folder."""

from pathlib import Path

LEVELS = ("", "*/", "*/*/", "*/*/*/")


def find_files(root: Path, *suffixes: str, levels: int = 3) -> list[Path]:
    """Return the files with one of the suffixes in a folder and below it, sorted, without hidden ones.

    Args:
        root: the folder.
        suffixes: such as ".json"; capitals do not matter.
        levels: folders inside of one another that are looked through, ``root`` among them; at most four.
    """
    found = {
        path
        for level in LEVELS[:levels]
        for path in root.glob(f"{level}*")
        if path.suffix.lower() in suffixes
    }
    hidden = {path for path in found if any(name.startswith(".") for name in path.relative_to(root).parts)}
    return sorted(path for path in found - hidden if path.is_file())


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not blank, stripped; bytes that are no UTF-8 are replaced."""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
