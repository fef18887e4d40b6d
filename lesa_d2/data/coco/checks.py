"""Check a COCO JSON file and its pictures before training starts."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from ..pictures import DeepPictureError, MissingPictureError, PictureError, check_picture
from ..problems import DatasetProblemsError, Problem
from ..progress import progress
from .fixes import FIXES, OUTSIDE
from .part import ImageSummary, Part, Summary, summarise

_PICTURE_KINDS: dict[type, str] = {
    MissingPictureError: "missing image file",
    DeepPictureError: "more than 8 bits",
}


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
    unreadable = ("missing image file", OUTSIDE)
    named = {problem.image_id for problem in summary.problems if problem.kind in unreadable}
    if any(problem.kind == "no picture found" for problem in summary.problems):
        return
    images = [image for image in summary.images if image.id not in named]

    def mistake(image: ImageSummary) -> tuple[str, str] | None:
        return _picture_mistake(os.path.join(summary.image_root, image.file_name), image)

    with ThreadPoolExecutor() as pool:
        results: Iterable = progress(pool.map(mistake, images), "Checking images", len(images))
        for image, found in zip(images, results, strict=True):
            if found:
                kind, what = found
                yield Problem(kind, image.label_file, what, FIXES[kind], image.id)


def _picture_mistake(path: str, image: ImageSummary) -> tuple[str, str] | None:
    """Return the kind of the problem that a picture has, and what it is exactly."""
    try:
        width, height = check_picture(path)
    except PictureError as error:
        return _PICTURE_KINDS.get(type(error), "image that cannot be decoded"), str(error)
    if (width, height) == (image.width, image.height):
        return None
    what = f"{image.file_name} is {width}x{height} px, the annotations say {image.width}x{image.height}"
    return "wrong image size", what
