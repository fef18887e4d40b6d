"""What a network sees of an image file, by the preprocessing of its own config."""

import glob
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from torch import Tensor, nn

from ...errors import LesaError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
Mapper = Callable[[dict[str, Any]], dict[str, Any]]
Point = tuple[float, float]


@dataclass(frozen=True)
class SeenImage:
    """A file as a network sees it.

    Attributes:
        picture: (h, w, 3) uint8, RGB: resized, cropped, …, not yet normalised.
        batch: (1, 3, H, W), normalised and perhaps padded to the right and below.
        file_size: (width, height) of the picture in the file.
    """

    file: Path
    picture: np.ndarray
    batch: Tensor
    file_size: tuple[int, int]


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Image files, each once: those given, and all below the folders given, by name.

    Args:
        paths: files, folders, or patterns such as ``photos/*.jpg``.

    Raises:
        LesaError: a path does not exist, or there is no image.
    """
    places = [place for path in paths for place in _expand(Path(path).expanduser())]
    found: list[Path] = []
    for path in places:
        if not path.exists():
            raise LesaError(f"there is no file or folder {path}; give images or folders of them")
        if path.is_dir():
            found += sorted(x for x in path.rglob("*") if x.suffix.lower() in SUFFIXES and x.is_file())
        else:
            found.append(path)
    if not found:
        raise LesaError(
            f"expected images ({', '.join(SUFFIXES)}), found none in {', '.join(map(str, places))}"
        )
    return list(dict.fromkeys(found))


def _expand(path: Path) -> list[Path]:
    """The files and folders of a pattern; the path itself where it is none, or exists."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not found:
        raise LesaError(f"nothing matches {path}; give images, folders of them, or patterns")
    return found


def open_image(file: Path, channels: str) -> np.ndarray:
    """The picture of a file, (H, W, 3) uint8, turned upright as its EXIF data say.

    Args:
        file: of any format that Pillow reads.
        channels: "RGB" or "BGR".

    Raises:
        LesaError: the file is no image that can be read.
    """
    try:
        return utils.read_image(str(file), channels)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise LesaError(f"{file} cannot be read as an image: {error}") from error


class ImageReader:
    """Reads files as a model sees them.

    Args:
        model: a detector (``preprocess_image`` of a list of dicts), or a classifier (``preprocess`` of a
            batch).
        mapper: what the config's test loader makes of a dict with ``file_name``.
        channels: order of the mapper's channels, "RGB" or "BGR".
    """

    def __init__(self, model: nn.Module, mapper: Mapper, channels: str = "RGB") -> None:
        if channels not in ("RGB", "BGR"):
            raise LesaError(f"pictures are drawn from RGB or BGR images, got a model for {channels!r}")
        self.model = model
        self.mapper = mapper
        self.channels = channels
        self.batch = _detector_batch if hasattr(model, "preprocess_image") else _classifier_batch

    def read(self, file: Path) -> SeenImage:
        """
        Raises:
            LesaError: the file is no image that can be read.
        """
        height, width = open_image(file, "RGB").shape[:2]
        mapped = self._map(file)
        return SeenImage(file, self._picture(mapped), self.batch(self.model, mapped), (width, height))

    def locate(self, seen: SeenImage, position: Point) -> Point:
        """Where a position (x, y), in pixels of the picture in the file, lies in ``seen.picture``.

        Whatever the mapper does to each axis on its own is followed: resizing, cropping, flipping.

        Raises:
            LesaError: outside the picture, or in a part of it that the network does not see.
        """
        width, height = seen.file_size
        x, y = position
        if not (0 <= x < width and 0 <= y < height):
            raise LesaError(
                f"position ({x:g}, {y:g}) lies outside {seen.file}, which is {width} wide and {height} high"
            )
        columns, rows = self._coordinates(seen)
        x, y = _inverse(columns, x), _inverse(rows, y)
        high, wide = seen.picture.shape[:2]
        # Half a pixel: what a resized border may be off
        if not (-0.5 <= x <= wide + 0.5 and -0.5 <= y <= high + 0.5):
            left, right = sorted((columns(0.0), columns(float(wide))))
            top, bottom = sorted((rows(0.0), rows(float(high))))
            raise LesaError(
                f"position ({position[0]:g}, {position[1]:g}) lies in a part of {seen.file} that is cut away "
                f"before the network; it sees x {left:.0f} to {right:.0f} and y {top:.0f} to {bottom:.0f}"
            )
        return min(max(x, 0.0), wide - 1e-3), min(max(y, 0.0), high - 1e-3)

    def _map(self, file: Path) -> dict[str, Any]:
        return self.mapper({"file_name": str(file), "label": 0})

    def _picture(self, mapped: dict[str, Any]) -> np.ndarray:
        picture = mapped["image"].permute(1, 2, 0).numpy()
        return np.ascontiguousarray(picture if self.channels == "RGB" else picture[:, :, ::-1])

    def _coordinates(self, seen: SeenImage) -> tuple[np.poly1d, np.poly1d]:
        """File coordinates as linear functions of the seen picture's: of x, and of y.

        The mapper tells: it is given a picture of the same size whose red rises with x and green with y.
        """
        width, height = seen.file_size
        ramps = np.zeros((height, width, 3), np.uint8)  # blue, green, red
        ramps[:, :, 2] = np.round(255 * (np.arange(width) + 0.5) / width)[None, :]
        ramps[:, :, 1] = np.round(255 * (np.arange(height) + 0.5) / height)[:, None]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "ramps.png"
            cv2.imwrite(str(file), ramps)
            picture = self._picture(self._map(file)).astype(float)
        of_column, of_row = picture[:, :, 0].mean(0) / 255 * width, picture[:, :, 1].mean(1) / 255 * height
        return _line(of_column), _line(of_row)


def _line(values: np.ndarray) -> np.poly1d:
    """Through values at the centres of pixels."""
    centres = np.arange(len(values)) + 0.5
    if len(values) == 1:  # a pixel wide, as far as anybody can tell
        return np.poly1d([2 * values[0], 0.0])
    return np.poly1d(np.polyfit(centres, values, 1))


def _inverse(line: np.poly1d, value: float) -> float:
    """Where ``line`` has ``value``."""
    return (value - line(0.0)) / line.coeffs[0]


def _detector_batch(model: Any, mapped: dict[str, Any]) -> Tensor:
    return model.preprocess_image([mapped]).tensor


def _classifier_batch(model: Any, mapped: dict[str, Any]) -> Tensor:
    return model.preprocess({"image": mapped["image"][None]})
