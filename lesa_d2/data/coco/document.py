"""Read a COCO file, with every value brought into one form and every mistake named."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import is_
from pathlib import Path
from typing import Any

import orjson

from ..problems import DatasetProblemsError, Problem
from .entries import is_object, is_plain_id, read_annotation, read_image
from .fixes import FIXES, OUTSIDE
from .locate import Located
from .values import LARGEST_ID, MistakeError, is_int, shown, whole

STRUCTURE = "A COCO file is one object with lists of objects: images, annotations and categories."
CATEGORY = "Every category needs an integer 'id' of its own and a 'name'."
_LONG = 200  # letters of a file name that are shown
_NONE_FOUND = 3  # where more pictures are missing, and all, that is one problem
_OF_IMAGES = ("id", "file_name", "width", "height")
_DIGITS_TO_0 = bytes.maketrans(b"123456789", b"000000000")
_READ = ("id", "image_id", "category_id", "area", "iscrowd", "segmentation")

Locate = Callable[[list[str]], Located]


@dataclass
class Document:
    """Hold the entries of a file that have all their ids, and everything that is wrong in it.

    Attributes:
        file: what the messages name.
        image_root: the folder that ``file_name`` is relative to.
        images: with ``id``, ``file_name``, ``width``, ``height``; ids may be texts.
        annotations: with ``id``, ``image_id``, ``category_id``, ``bbox``, ``area``, ``iscrowd``; a value that a
            problem names is as it stands in the file.
        categories: with ``id`` and ``name``, by ascending id.
        problems: of all entries and of the file.
        remarks: sentences about what was read otherwise than it stands in the file.
        is_plain: pycocotools can score against the file as it is.
        totals: the numbers of images and of annotations in the file, malformed ones included.
    """

    file: str
    image_root: Path
    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)
    categories: list[dict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    is_plain: bool = True
    totals: tuple[int, int] = (0, 0)
    label_files: dict[Any, str] = field(default_factory=dict)  # by image id, where each image has one
    _invalid: set[int] = field(default_factory=set)  # id() of the annotations that a problem names

    def report(
        self,
        kind: str,
        what: str,
        image: dict | None = None,
        annotation: dict | None = None,
        keep: bool = False,
    ) -> None:
        """Add a problem of an image, of an annotation, or of the whole file.

        Args:
            kind: one of :data:`FIXES`.
            what: what it is exactly.
            image: the image, if it is one's.
            annotation: the annotation, if it is one's.
            keep: leaving out invalid entries keeps this annotation, because something else sets it right.
        """
        image_id = annotation["image_id"] if annotation else image["id"] if image else None
        annotation_id = annotation["id"] if annotation else None
        file = self.label_files.get(image_id, self.file)
        self.problems.append(Problem(kind, file, what, FIXES[kind], image_id, annotation_id))
        if annotation and not keep:
            self._invalid.add(id(annotation))

    def without_invalid(self, more: Sequence[Problem]) -> "Document":
        """Return the document without the entries that its problems, and ``more`` of images, name.

        Raises:
            DatasetProblemsError: a problem is of the whole file, or no object is left.
        """
        problems = [*self.problems, *more]
        if general := [problem for problem in problems if not problem.is_of_entry]:
            raise DatasetProblemsError(self.file, general)
        bad_images = {p.image_id for p in problems if p.annotation_id is None}
        images = [image for image in self.images if image["id"] not in bad_images]
        kept = {image["id"] for image in images}
        valid = [a for a in self.annotations if id(a) not in self._invalid and a["image_id"] in kept]
        if not any(map(is_object, valid)):
            what = "no object remains once everything listed here is left out"
            nothing = Problem("nothing left", self.file, what, "Fix some of it.")
            raise DatasetProblemsError(self.file, [nothing, *problems])
        return replace(
            self, images=images, annotations=valid, problems=[], is_plain=not problems and self.is_plain
        )

    def numbered(self) -> "Document":
        """Return the document with integer ids that differ, as detectron2 and pycocotools need them."""
        images, annotations = self.images, self.annotations
        if not all(is_plain_id(image["id"]) for image in images):
            numbers = {image["id"]: number for number, image in enumerate(images, 1)}
            images = [{**image, "id": numbers[image["id"]]} for image in images]
            annotations = [{**a, "image_id": numbers[a["image_id"]]} for a in annotations]
        ids = {a["id"] for a in annotations}
        if len(ids) < len(annotations) or not all(map(is_plain_id, ids)):
            annotations = [{**a, "id": number} for number, a in enumerate(annotations, 1)]
        return replace(self, images=images, annotations=annotations)


# ------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Parsed:
    """Hold what was read of a file or of several, in the structure of a COCO file.

    Attributes:
        data: the content.
        digest: of the content of the files.
        is_file: detectron2 can read the file itself.
        problems: what could not be read.
        remarks: sentences about what was left out.
        label_files: by image id, where each image has one.
    """

    data: Any
    digest: str = ""
    is_file: bool = True
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()
    label_files: dict[Any, str] = field(default_factory=dict)


def parse(json_file: Path) -> Parsed:
    """Parse a JSON file in UTF-8, with a byte order mark or without, or in another encoding of Unicode.

    Raises:
        DatasetProblemsError: it is not JSON.
    """
    content = json_file.read_bytes()
    try:
        data = _parsed(content)
    except (ValueError, RecursionError) as error:
        fix = "Write the file again; it may have been cut off or be of another format."
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        problem = Problem("unreadable JSON", str(json_file), what, fix)
        raise DatasetProblemsError(str(json_file), [problem]) from error
    return Parsed(data, hashlib.sha256(content).hexdigest(), json.detect_encoding(content) == "utf-8")


def _parsed(content: bytes) -> Any:
    """Return the values of a JSON text as :mod:`json` reads them.

    orjson takes a third of the time, but keeps integers of more than 64 bits as floating-point numbers, and refuses
    NaN, encodings other than UTF-8 and whatever is no JSON.
    """
    if b"0" * 19 not in content.translate(_DIGITS_TO_0):
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            pass  # json reads more, and its message says more
    return json.loads(content)


def read_document(parsed: Parsed, file: Path, locate: Locate) -> Document:
    """Read the content of a COCO file.

    Args:
        parsed: the content.
        file: what the messages name.
        locate: file names -> where the pictures are.

    Raises:
        DatasetProblemsError: images, annotations or categories are not lists; malformed categories.
    """
    data = parsed.data
    if problems := list(structure_problems(str(file), data)):
        raise DatasetProblemsError(str(file), problems)
    document = Document(str(file), file.parent, totals=(len(data["images"]), len(data["annotations"])))
    ids = [category["id"] for category in data["categories"]]
    document.is_plain = parsed.is_file and "info" in data and all(map(is_int, ids))
    document.categories = sorted(map(_read_category, data["categories"]), key=lambda category: category["id"])
    for key in ("images", "annotations", "categories"):
        if not data[key]:
            document.report(f"no {key}", f"{key!r} is an empty list")
    document.problems += parsed.problems
    document.remarks += parsed.remarks
    document.label_files = parsed.label_files
    merged = _read_images(document, data["images"], locate)
    _read_annotations(document, data["annotations"], merged)
    _check_annotations(document)
    return document


def structure_problems(file: str, data: Any) -> Iterator[Problem]:
    """Yield why a parsed JSON file is not one of COCO."""
    wrong = partial(Problem, "not a COCO file", file, fix=STRUCTURE)
    if not isinstance(data, dict):
        yield wrong(f"holds a {type(data).__name__}, not an object")
        return
    for key in ("images", "annotations", "categories"):
        value = data.get(key)
        if key not in data:
            yield wrong(f"{key!r} is missing")
        elif not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            yield wrong(f"{key!r} is not a list of objects")
        elif key == "categories":
            yield from _category_problems(file, value)


def _category_problems(file: str, categories: list[dict]) -> Iterator[Problem]:
    seen = set()
    for category in categories:
        category_id = whole(category.get("id"))
        is_good = is_int(category_id) and abs(category_id) <= LARGEST_ID
        name = category.get("name")
        if not is_good or not isinstance(name, str) or not name.strip():
            yield Problem("malformed category", file, f"got {shown(category, 200)}", CATEGORY)
        elif category_id in seen:
            yield Problem("malformed category", file, f"id {category_id} comes twice", CATEGORY)
        else:
            seen.add(category_id)


def _read_category(raw: dict) -> dict:
    """Return id, name and supercategory, which is empty where it is not a text."""
    above = raw.get("supercategory")
    return {
        "id": whole(raw["id"]),
        "name": raw["name"],
        "supercategory": above if isinstance(above, str) else "",
    }


def _read_images(document: Document, raw: list[dict], locate: Locate) -> dict[Any, Any]:
    """Read the images and find their files; returns ids of entries -> id of the first entry of the same file."""
    for entry in raw:
        try:
            image = read_image(entry)
        except MistakeError as mistake:
            document.report(mistake.kind, mistake.what)
        else:
            document.images.append(image)
            document.is_plain &= all(_is_same(image[key], entry.get(key)) for key in _OF_IMAGES)
    document.is_plain &= all(is_plain_id(image["id"]) for image in document.images)
    located = locate([image["file_name"] for image in document.images])
    document.image_root = located.image_root
    for image in document.images:
        name = image["file_name"]
        image["file_name"] = located.names[name]
        document.is_plain &= image["file_name"] == name
    _report_missing(document, located)
    if located.also:
        document.remarks.append(
            f"the pictures are those in {located.image_root.name}/; {located.also}/ has the same names."
        )
    if located.near:
        name, used = next(iter(located.near.items()))
        document.remarks.append(
            f"{len(located.near)} file names are not quite those of the pictures, whose names are used: "
            f"{name!r} is {used!r}."
        )
    return _merge_entries(document)


def _report_missing(document: Document, located: Located) -> None:
    if len(located.missing) == len(document.images) > _NONE_FOUND:
        name, found = next(iter(located.missing.items()))
        hint = f"; near it: {', '.join(found)}" if found else ""
        document.report(
            "no picture found", f"such as {shown(name)}, which is not in {located.image_root} either{hint}"
        )
        return
    for image in document.images:
        if (name := image["file_name"]) in located.outside:
            document.report(OUTSIDE, shown(name), image)
        if name in located.missing:
            near = f"; near it: {', '.join(located.missing[name])}" if located.missing[name] else ""
            where = located.image_root / (name if len(name) < _LONG else f"{name[:_LONG]}...")
            document.report("missing image file", f"{where}{near}", image)


def _merge_entries(document: Document) -> dict[Any, Any]:
    """Keep the first of several images with one file, and report ids that come more than once."""
    for image_id, count in Counter(image["id"] for image in document.images).items():
        if count > 1:
            document.report("duplicate image id", f"{count} images have it", {"id": image_id})
    first: dict[str, dict] = {}
    same: dict[Any, Any] = {}
    for image in document.images:
        kept = first.setdefault(image["file_name"], image)
        if kept["id"] != image["id"] and (kept["width"], kept["height"]) == (image["width"], image["height"]):
            same[image["id"]] = kept["id"]
    if same:
        document.images = [image for image in document.images if image["id"] not in same]
        document.is_plain = False
        document.remarks.append(
            f"{len(same)} images name a file that another image names: their objects are taken together."
        )
    return same


def _read_annotations(document: Document, raw: list[dict], merged: dict[Any, Any]) -> None:
    images = {image["id"]: image for image in document.images}
    names = {category["id"]: category["name"] for category in document.categories}
    for entry in raw:
        mistakes: list[MistakeError] = []
        annotation = read_annotation(entry, images, names, mistakes, merged)
        for mistake in mistakes:
            document.report(mistake.kind, mistake.what, annotation=annotation)
        if annotation is not None:
            document.annotations.append(annotation)
            document.is_plain = document.is_plain and _is_as_read(annotation, entry)
    # pycocotools keeps ids in arrays of numbers, where 0 means "no match": the object would count as missed.
    document.is_plain &= all(is_plain_id(a["id"]) and a["id"] != 0 for a in document.annotations)


def _is_as_read(annotation: dict, entry: dict) -> bool:
    if all(map(is_, map(annotation.get, _READ), map(entry.get, _READ))):
        return True
    for key in _READ:
        value, raw = annotation.get(key), entry.get(key)
        if value is not raw and not _is_same(value, raw):
            return False
    return True


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _check_annotations(document: Document) -> None:
    """Report what is wrong between annotations."""
    annotations = document.annotations
    if annotations and not any(map(is_object, annotations)):
        document.report("only crowd annotations", f"iscrowd is set in all {len(annotations)}")
    first: dict[Any, dict] = {}
    boxes: dict[tuple, int] = defaultdict(int)
    for annotation in annotations:
        other = first.setdefault(annotation["id"], annotation)
        if other is not annotation:
            what = f"an annotation of image {other['image_id']} has it too"
            document.report("duplicate annotation id", what, annotation=annotation, keep=True)
        if is_object(annotation) and id(annotation) not in document._invalid:
            boxes[(annotation["image_id"], annotation["category_id"], *annotation["bbox"])] += 1
    # Boxes alone can be trained: masks may be missing altogether, but not in part.
    without = [a for a in annotations if not a.get("segmentation")]
    if len(without) < len(annotations):
        for annotation in without:
            document.report("masks missing", "no 'segmentation'", annotation=annotation)
    if twice := sum(count - 1 for count in boxes.values()):
        document.remarks.append(
            f"{twice} objects are labelled twice: the same class and box in the same image."
        )
