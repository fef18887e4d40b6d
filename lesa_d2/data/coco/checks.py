"""Check a COCO JSON file and its pictures before training starts."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image

from ..problems import DatasetProblemsError, Problem
from ..progress import progress
from .fixes import FIXES
from .part import ImageSummary, Part, Summary, summarise

PictureMistake = tuple[str, str]
"""The kind of a problem, and what it is exactly."""


def check_coco_json(json_file: str | Path, image_root: str | Path) -> list[Problem]:
    """Return all problems of one COCO JSON file and of its images, each of which is decoded.

    Masks may be missing altogether, because boxes can be trained alone, but not in part.
    """
    part = Part(Path(json_file), Path(image_root))
    try:
        return [*part.summary().problems, *picture_problems(part)]
    except DatasetProblemsError as error:
        return error.problems


def picture_problems(part: Part) -> tuple[Problem, ...]:
    """Return the problems of the pictures of a part, which are decoded again only when one has changed."""
    return _picture_problems(part, part.state(), pictures_state(part.summary()))


def valid_summary(part: Part) -> Summary:
    """Return the summary of what is left of a part without its invalid entries.

    Raises:
        DatasetProblemsError: a problem is of the whole file, or no object is left.
    """
    return _valid_summary(part, part.state(), pictures_state(part.summary()))


@lru_cache(maxsize=4)
def _valid_summary(part: Part, state: tuple, pictures: str) -> Summary:
    return summarise(part.read().without_invalid(picture_problems(part)), part.summary().digest)


def paths(summary: Summary) -> list[str]:
    """Return the paths of the pictures of a part."""
    return [os.path.join(summary.image_root, image.file_name) for image in summary.images]


def pictures_state(summary: Summary) -> str:
    """Return a digest that changes when a picture changes."""

    def state(path: str) -> str:
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return "-"
        return f"{found.st_size} {found.st_mtime_ns}"

    return hashlib.sha256("\n".join(map(state, paths(summary))).encode()).hexdigest()


@lru_cache(maxsize=4)
def _picture_problems(part: Part, state: tuple, pictures: str) -> tuple[Problem, ...]:
    return tuple(_find_picture_problems(part))


def _find_picture_problems(part: Part) -> Iterator[Problem]:
    """Decode every image; threads help because most of the time is spent outside Python."""
    summary = part.summary()
    named = {problem.image_id for problem in summary.problems if problem.kind == "missing image file"}
    if any(problem.kind == "no picture found" for problem in summary.problems):
        return
    images = [image for image in summary.images if image.id not in named]

    def mistakes(image: ImageSummary) -> list[PictureMistake]:
        return _file_mistakes(os.path.join(summary.image_root, image.file_name), image)

    with ThreadPoolExecutor() as pool:
        results: Iterable = progress(pool.map(mistakes, images), "Checking images", len(images))
        for image, found in zip(images, results, strict=True):
            for kind, what in found:
                yield Problem(kind, str(part.json_file), what, FIXES[kind], image.id)


def _file_mistakes(path: str, image: ImageSummary) -> list[PictureMistake]:
    if not PathManager.isfile(path):
        return [("missing image file", path)]
    try:
        (width, height), mode = _decode(path)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        return [("image that cannot be decoded", f"{path}: {error}")]
    found = []
    if mode.startswith(("I", "F")):  # I;16, I;16B, I, F ...: converting them to RGB clips at 255
        found.append(("more than 8 bits", f"{image.file_name} has Pillow's mode {mode!r}"))
    if (width, height) != (image.width, image.height):
        what = f"{image.file_name} is {width}x{height} px, the JSON says"
        found.append(("wrong image size", f"{what} {image.width}x{image.height}"))
    return found


def _decode(path: str) -> tuple[tuple[int, int], str]:
    """Return the size as detectron2's ``read_image`` gives it (turned upright as EXIF says), and Pillow's mode."""
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        image.load()
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # width and height are swapped
        return ((height, width) if turned else (width, height)), image.mode
