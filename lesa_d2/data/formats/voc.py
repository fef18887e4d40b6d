"""Read folders in the format of Pascal VOC: an XML file with the boxes of each picture."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..coco.document import Parsed
from ..coco.folder import AnnotatedFolder
from ..coco.part import Part
from ..coco.parts import part_of_folder
from ..files import find_files
from ..folder import PARTS, register_format
from .reading import Collector, FilesPart, as_parts, picture_size, shown_progress

ACCEPTED = """\
or Pascal VOC's format: an XML file with <filename>, <size> and <object>s for each picture, beside it or in
Annotations/; ImageSets/Main/{train,val}.txt, or train, val and test in the names of folders, tell the parts."""

_ORIGINAL = ("The VOC", "VOC20")  # of <database> and <folder> in the files of Pascal VOC itself
_BESIDE = ("JPEGImages", "images")
_KIND = "malformed VOC file"


@register_format
class VocFolder(AnnotatedFolder):
    """Represent a folder in Pascal VOC's format, which has boxes without masks."""

    format_name = "Pascal VOC"

    @classmethod
    def recognise(cls, root: Path) -> "VocFolder | None":
        """Return the folder if it has XML files of annotations, else None."""
        files = find_files(root, "*.xml")
        if not any(map(is_voc, files[:20])):
            return None
        parts = as_parts(_parts(root, files))
        return cls(root, parts) if parts else None

    @classmethod
    def explain(cls, root: Path) -> str:
        """Say what is accepted."""
        return ACCEPTED


def is_voc(file: Path) -> bool:
    """Tell whether an XML file has the objects of one picture."""
    try:
        element = _root_of(file)
    except ElementTree.ParseError:
        return False
    return element.tag == "annotation" and element.find("filename") is not None


def _root_of(file: Path) -> ElementTree.Element:
    """Parse an XML file without definitions of entities, which can make it grow without end.

    Raises:
        ParseError: it is not such a file.
    """
    content = file.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ElementTree.ParseError("it defines entities")
    return ElementTree.fromstring(content)


def _parts(root: Path, files: Sequence[Path]) -> list[tuple[str | None, Part]]:
    """Return the parts that ImageSets/Main names, else those that the folders are named after."""
    by_part: dict[str | None, list[Path]] = {}
    by_stem = {file.stem: file for file in files}
    for name in PARTS:
        listed = root / "ImageSets/Main" / f"{name}.txt"
        if listed.is_file():
            stems = [
                line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
            by_part[name] = [by_stem[stem] for stem in stems if stem in by_stem]
    if not any(by_part.values()):
        by_part = {}
        for file in files:
            by_part.setdefault(part_of_folder(file.relative_to(root).parent), []).append(file)
    classes = tuple(sorted({name for file in files for name in _names(file)}))
    shown = {name: _common_folder(found, root) for name, found in by_part.items() if found}
    return [(name, VocPart(shown[name], root, name, tuple(by_part[name]), classes)) for name in shown]


def _common_folder(files: Sequence[Path], root: Path) -> Path:
    folders = {file.parent for file in files}
    return folders.pop() if len(folders) == 1 else root


def _names(file: Path) -> list[str]:
    try:
        return [_text(found, "name") for found in _root_of(file).iter("object")]
    except (ElementTree.ParseError, ValueError):
        return []  # said when the file is read


@dataclass(frozen=True)
class VocPart(FilesPart):
    """Name the XML files of a part."""

    def _parse(self) -> Parsed:
        found = Collector(dict(enumerate(self.classes, 1)))
        numbers = {name: number for number, name in found.names.items()}
        for file in shown_progress(self.labels):
            try:
                self._read_picture(file, _root_of(file), numbers, found)
            except (ElementTree.ParseError, ValueError) as error:
                found.report(_KIND, file, str(error))
        return found.parsed(self.labels)

    def _read_picture(
        self, file: Path, content: ElementTree.Element, numbers: dict[str, int], found: Collector
    ) -> None:
        """Add a picture with its boxes.

        Raises:
            ValueError: a value is missing or is not a number.
        """
        boxes = [
            (numbers[_text(entry, "name")], read_box(entry, content)) for entry in content.iter("object")
        ]
        name = str((file.parent / _text(content, "filename")).relative_to(self.root))
        image = found.add_image(name, *_size(content, file))
        for number, box in boxes:
            found.add_object(image, number, box, [])


def _size(content: ElementTree.Element, file: Path) -> tuple[int, int]:
    """Return width and height as the file says, or those of the picture beside it where it says zero or nothing."""
    size = content.find("size")
    if size is not None:
        width, height = (round(_number(size, side)) for side in ("width", "height"))
        if width > 0 and height > 0:
            return width, height
    name = _text(content, "filename")
    places = (file.parent, *(file.parent.parent / beside for beside in _BESIDE))
    for found in filter(None, (picture_size(place / name) for place in places)):
        return found
    raise ValueError("<size> has no width and height")


def read_box(entry: ElementTree.Element, content: ElementTree.Element) -> list[float]:
    """Return the box (x, y, width, height) of an <object>, in pixels from the corner of the picture.

    The files of Pascal VOC itself count pixels from 1, those of other tools from 0.

    Raises:
        ValueError: a value is missing or is not a number.
    """
    box = entry.find("bndbox")
    if box is None:
        raise ValueError("an <object> has no <bndbox>")
    x0, y0, x1, y1 = (_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    first = 1 if _is_original(content) else 0
    return [x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first]


def _is_original(content: ElementTree.Element) -> bool:
    texts = (content.findtext("source/database") or "", content.findtext("folder") or "")
    return any(text.strip().startswith(start) for text, start in zip(texts, _ORIGINAL, strict=True))


def _text(element: ElementTree.Element, key: str) -> str:
    text = (element.findtext(key) or "").strip()
    if not text:
        raise ValueError(f"<{element.tag}> has no <{key}>")
    return text


def _number(element: ElementTree.Element, key: str) -> float:
    text = _text(element, key)
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"<{key}> is {text!r}, not a number") from error
