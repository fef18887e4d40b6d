"""The pictures to predict for: files and folders, a list in a text file, or the images of a COCO file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ...data.coco.document import parse
from ...data.files import read_lines
from ...errors import DatasetError, LesaError, listed
from ...trust import PATHS_VARIABLE, may_read
from ..analysis.image_reader import find_images


class Picture(NamedTuple):
    """Hold the id and the name of a picture in the results, and its file."""

    id: int | str
    name: str
    file: str


@dataclass(frozen=True)
class Inputs:
    """Hold the pictures in the order of their results.

    Attributes:
        pictures: two of them may have the same file.
        categories: of the COCO file, with ``id`` and ``name``; empty where there is none.
    """

    pictures: list[Picture]
    categories: list[dict[str, Any]]

    @property
    def files(self) -> list[str]:
        """Return every file once, as an absolute path."""
        return list(dict.fromkeys(picture.file for picture in self.pictures))

    def categories_of(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the categories of the model's classes, in their order.

        Ids are those of the COCO file; where there is none, they count from 1.

        Raises:
            LesaError: the COCO file lacks a class.
        """
        if not self.categories:
            return [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
        known = {category.get("name"): category for category in self.categories}
        missing = [name for name in class_names if name not in known]
        if missing or not class_names:
            raise LesaError(
                f"the categories of the COCO file lack these classes of the model: {listed(missing)}; give the "
                "pictures as a folder or a list, which numbers the classes from 1"
            )
        return [known[name] for name in class_names]


def read_inputs(paths: Sequence[str], image_root: str | None = None) -> Inputs:
    """Return the pictures of paths: of one COCO file (.json), one list (.txt), or of files, folders and patterns.

    Args:
        paths: what the command line gives.
        image_root: the folder that names in a COCO file or a list are relative to; None is the folder of that file.

    Raises:
        LesaError: a path does not exist, the file cannot be read or is no COCO file, or there is no picture.
    """
    suffixes = {Path(path).suffix.lower() for path in paths}
    if not suffixes & {".json", ".txt"}:
        return _numbered([str(file) for file in find_images(paths)])
    file = Path(paths[0]).expanduser()
    if len(paths) > 1:
        raise LesaError(f"expected one COCO file, one list, or pictures and folders, got {listed(paths)}")
    if not file.is_file():
        raise LesaError(f"there is no file {file}; give a COCO file, a list, pictures or folders of them")
    root = Path(image_root).expanduser() if image_root else file.parent
    if not root.is_dir():
        raise LesaError(
            f"--image-root {root} is no folder; give the folder that the names in {file} start from"
        )
    try:
        inputs = (
            _of_coco(file, root)
            if suffixes == {".json"}
            else _numbered([str(root / n) for n in read_lines(file)])
        )
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
    if not inputs.pictures:
        raise LesaError(f"{file} names no picture")
    return inputs


def _numbered(files: Sequence[str]) -> Inputs:
    paths = dict.fromkeys(map(os.path.abspath, files))
    pictures = [Picture(number, path, path) for number, path in enumerate(paths, start=1)]
    for picture in pictures:
        _check_writable(list(picture), picture.file, "rename it")
    return Inputs(pictures, [])


def _check_writable(value: Any, what: str, advice: str) -> None:
    """Check that results can hold a value: names in UTF-8, and integers of 64 bits.

    Raises:
        DatasetError: they cannot.
    """
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise DatasetError(
            f"results cannot hold {ascii(what)[:300]} ({error}): expected names in UTF-8 and integers of 64 bits; "
            f"{advice}"
        ) from error


def _of_coco(file: Path, root: Path) -> Inputs:
    content = parse(file).data
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DatasetError(f'{file} is no COCO file: expected {{"images": [{{"id", "file_name"}}, …]}}')
    folder = os.path.abspath(root)
    pictures = [_of_image(file, folder, image) for image in content["images"]]
    if len({picture.id for picture in pictures}) < len(pictures):
        raise DatasetError(f"{file}: several images have the same id; their results could not be told apart")
    return Inputs(pictures, _categories(file, content.get("categories") or []))


def _of_image(file: Path, folder: str, image: Any) -> Picture:
    identity, name = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
    is_id = isinstance(identity, (int, str)) and not isinstance(identity, bool)
    if not is_id or not isinstance(name, str) or not name or "\0" in name:
        raise DatasetError(f'{file}: expected images with "id" and "file_name", got {str(image)[:200]}')
    path = os.path.normpath(os.path.join(folder, name))
    if not may_read(path, folder):
        raise DatasetError(
            f"{file} names {name!r}, which is outside of {folder}; where that is meant, give a folder that contains "
            f"all pictures, by --image-root, or name its folder in {PATHS_VARIABLE}"
        )
    picture = Picture(identity, name, path)  # type: ignore[arg-type]
    _check_writable(list(picture), str(image), f"change it in {file}")
    return picture


def _categories(file: Path, categories: Any) -> list[dict[str, Any]]:
    if not isinstance(categories, list) or not all(
        isinstance(item, dict) and type(item.get("id")) is int and isinstance(item.get("name"), str)
        for item in categories
    ):
        raise DatasetError(f'{file}: expected categories with "id" and "name"')
    for category in categories:
        _check_writable(category, str(category), f"change it in {file}")
    return categories
