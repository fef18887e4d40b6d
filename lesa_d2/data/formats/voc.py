"""Read folders in the format of Pascal VOC: an XML file with the boxes of each picture."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..coco.document import Parsed
from ..coco.folder import AnnotatedFolder
from ..coco.part import Part
from ..files import find_files, read_lines
from ..folder import PARTS, register_format
from ..pictures import SUFFIXES
from .reading import Collector, FilesPart, as_parts, by_part, numbered, picture_size, shown_progress

ACCEPTED = """\
or Pascal VOC's format: an XML file with <filename>, <size> and <object>s for each picture, beside it or in
Annotations/; ImageSets/Main/{train,val}.txt, or train, val and test in the names of folders, tell the parts."""

_ORIGINAL = "The VOC"  # of <database> in the files of Pascal VOC itself
_PLACES = ("", "JPEGImages", "images")  # of pictures, beside the folder of the XML files
_FARTHEST = 1e9  # pixels
_KIND = "malformed VOC file"


@register_format
class VocFolder(AnnotatedFolder):
    """Represent a folder in Pascal VOC's format, which has boxes without masks."""

    format_name = "Pascal VOC"

    @classmethod
    def recognise(cls, root: Path) -> "VocFolder | None":
        """Return the folder if it has XML files of annotations, else None."""
        files = find_files(root, ".xml", levels=4)
        if not any(map(is_voc, files[:20])):
            return None
        used = [file for file in files if is_voc(file, or_damaged=True)]
        parts, remarks = as_parts(_parts(root, used))
        if others := len(files) - len(used):
            remarks = (*remarks, f"{others} XML files without annotations of a picture are not used.")
        return cls(root, parts, remarks) if parts else None

    @classmethod
    def explain(cls, root: Path) -> str:
        """Say what is accepted."""
        return ACCEPTED


def is_voc(file: Path, or_damaged: bool = False) -> bool:
    """Tell whether an XML file has the objects of one picture; ``or_damaged`` takes one that cannot be parsed too."""
    try:
        return _root_of(file).tag == "annotation"
    except ElementTree.ParseError:
        return or_damaged


def _root_of(file: Path) -> ElementTree.Element:
    """Parse an XML file without definitions of entities, which can make it grow without end.

    Raises:
        ParseError: it is not such a file.
    """
    content = file.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ElementTree.ParseError("it defines entities")
    try:
        return ElementTree.fromstring(content)
    except (LookupError, ValueError) as error:  # an encoding that there is not
        raise ElementTree.ParseError(str(error)) from error


def _parts(root: Path, files: Sequence[Path]) -> dict[str | None, Part]:
    """Return the parts that ImageSets/Main names, else those that the folders are named after."""
    found = _listed_parts(root, files) or by_part(files, root)
    classes = numbered(name for file in files for name in _names(file))
    return {
        part: VocPart(_common_folder(of_part, root), root, part, tuple(of_part), classes)
        for part, of_part in found.items()
    }


def _listed_parts(root: Path, files: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Return the files that the lists in ImageSets/Main name; trainval is for training where there is no train."""
    listed_in: dict[str | None, list[Path]] = {}
    by_stem = {file.stem: file for file in files}
    for folder in sorted(root.glob("ImageSets/Main")) + sorted(root.glob("*/ImageSets/Main")):
        for name in (*PARTS, "trainval"):
            part = "train" if name == "trainval" else name
            if (folder / f"{name}.txt").is_file() and not (name == "trainval" and listed_in.get(part)):
                stems = [Path(line.split()[0]).stem for line in read_lines(folder / f"{name}.txt")]
                listed_in.setdefault(part, []).extend(by_stem[stem] for stem in stems if stem in by_stem)
    listed_in = {part: found for part, found in listed_in.items() if found}
    listed = {file for found in listed_in.values() for file in found}
    left = [file for file in files if file not in listed]
    return listed_in | ({None: left} if listed and left else {})


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
        found = Collector(dict(self.classes))
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
        picture = _picture_of(file, content)
        image = found.add_image(str(picture.relative_to(self.root)), *_size(content, picture), file)
        for number, box in boxes:
            found.add_object(image, number, box, [])


def _picture_of(file: Path, content: ElementTree.Element) -> Path:
    """Return the picture that <filename> names, or that of the XML file's name, or where it should be."""
    name = PurePosixPath((content.findtext("filename") or "").strip().replace("\\", "/")).name
    folders = [file.parent, *(file.parent.parent / place for place in _PLACES if place)]
    names = [*filter(None, [name]), *(f"{file.stem}{suffix}" for suffix in SUFFIXES)]
    found = (folder / name for name in names for folder in folders if (folder / name).is_file())
    return next(found, file.parent / (name or f"{file.stem}.jpg"))


def _size(content: ElementTree.Element, picture: Path) -> tuple[int, int]:
    """Return width and height as the file says, or those of the picture where it says zero or nothing."""
    size = content.find("size")
    if size is not None and all(size.findtext(side) for side in ("width", "height")):
        width, height = (round(_number(size, side)) for side in ("width", "height"))
        if width > 0 and height > 0:
            return width, height
    return picture_size(picture) or (1, 1)  # the check of the pictures says why it cannot be read


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
    first = 1 if (content.findtext("source/database") or "").strip().startswith(_ORIGINAL) else 0
    return [x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first]


def _text(element: ElementTree.Element, key: str) -> str:
    text = (element.findtext(key) or "").strip()
    if not text:
        raise ValueError(f"<{element.tag}> has no <{key}>")
    return text


def _number(element: ElementTree.Element, key: str) -> float:
    text = _text(element, key)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < _FARTHEST:
        raise ValueError(f"<{key}> is {text[:40]!r}, not a number of pixels")
    return number
