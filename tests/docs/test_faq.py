"""The errors that docs/faq.md answers are those that users see."""

import re
from pathlib import Path

from sandbox import ROOT

FOREIGN = {  # of Python and torchvision
    "No module named 'detectron2'",
    "No module named 'pkg_resources'",
    "operator torchvision::nms does not exist",
}


def quoted():
    """The errors at the beginning of paragraphs, such as **`box outside the image`, `masks missing`, …**"""
    text = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
    for heading in re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE):
        if not heading.endswith("?"):
            yield from re.findall(r"`(.+?)`", heading)


def test_quoted_errors_exist():
    files = [*(ROOT / "lesa_d2").rglob("*.py"), *(ROOT / "projects").rglob("*.py")]
    source = "\n".join(file.read_text(encoding="utf-8") for file in map(Path, files))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # texts that go on in the next line
    source = re.sub(r"\{\w+!r\}", "'…'", source)
    errors = [re.sub(r"'.+?'", "'…'", error) for error in quoted() if error not in FOREIGN]
    assert len(errors) > 10
    assert [error for error in errors if error not in source] == []


def test_linked_pages_and_sections_exist():
    """In the README and in every page."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
            target, _, section = link.partition("#")
            file = (page.parent / target) if target else page
            assert file.exists(), f"{page.name}: {link}"
            if section:
                titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
                assert section in anchors, f"{page.name}: {link}"
