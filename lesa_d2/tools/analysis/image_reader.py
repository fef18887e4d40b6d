"""Image files as a network sees them after the preprocessing of its own config."""

import glob
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor, nn

from ...data.pictures import HIDDEN, SUFFIXES, list_pictures, read_picture
from ...errors import LesaError, listed

logger = logging.getLogger("lesa_d2")

Mapper = Callable[[dict[str, Any]], dict[str, Any]]
Point = tuple[float, float]


@dataclass(frozen=True)
class SeenImage:
    """Hold an image file as a network sees it.

    Attributes:
        file: the image file.
        picture: (h, w, 3) uint8, RGB: after resizing, cropping and so on, before normalisation.
        batch: (1, 3, H, W), normalised; may be padded on the right and below.
        file_size: (width, height) of the picture in the file.
    """

    file: Path
    picture: np.ndarray
    batch: Tensor
    file_size: tuple[int, int]


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Return the given image files, and those in the given folders sorted by name, each file once.

    Args:
        paths: files, folders, or patterns such as ``photos/*.jpg``.

    Raises:
        LesaError: a path does not exist, or there is no image.
    """
    given = [item for path in paths for item in _expand(Path(path).expanduser())]
    images: list[Path] = []
    for path in given:
        if not path.exists():
            raise LesaError(f"there is no file or folder {path}; give images or folders of them")
        if path.is_dir():
            files, left_out = list_pictures(path)
            images += sorted(map(Path, files))
            warn_of_others(path, left_out)
        else:
            images.append(path)
    if not images:
        raise LesaError(
            f"expected images ({', '.join(SUFFIXES)}), found none in {', '.join(map(str, given))}"
        )
    return list(dict.fromkeys(images))


def warn_of_others(folder: Path, left_out: Mapping[str, int]) -> None:
    """Warn of files in a folder that are not taken for pictures; of hidden ones nobody expects it."""
    others = [f"{number} {kind}" for kind, number in sorted(left_out.items()) if kind != HIDDEN]
    if others:
        logger.warning(
            "%s: files that are left out: %s; pictures are %s", folder, listed(others), ", ".join(SUFFIXES)
        )


def _expand(path: Path) -> list[Path]:
    """Return the files and folders that match a pattern; the path itself if it exists or is no pattern."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not matches:
        raise LesaError(f"nothing matches {path}; give images, folders of them, or patterns")
    return matches


class ImageReader:
    """Read image files as a model sees them.

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
        """Read a file, and preprocess it as the config's test loader does.

        Raises:
            LesaError: the file cannot be read as an image.
        """
        height, width = read_picture(file).shape[:2]
        mapped = self._map(file)
        return SeenImage(file, self._picture(mapped), self.batch(self.model, mapped), (width, height))

    def locate(self, seen: SeenImage, position: Point) -> Point:
        """Return where a position (x, y), in pixels of the picture in the file, lies in ``seen.picture``.

        The mapper may change each axis by itself: by resizing, cropping and flipping.

        Raises:
            LesaError: the position is outside the picture, or in a part of it that the network does not see.
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
        # A border may be wrong by half a pixel after resizing.
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
        """Return linear functions from the coordinates of the seen picture to those of the file, for x and for y.

        They are fitted to what the mapper makes of a picture of the same size whose red channel rises with x and
        whose green channel rises with y.
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
    """Fit a line to values at the centres of pixels."""
    centres = np.arange(len(values)) + 0.5
    if len(values) == 1:  # one value does not tell a slope: the value is that of the middle
        return np.poly1d([2 * values[0], 0.0])
    return np.poly1d(np.polyfit(centres, values, 1))


def _inverse(line: np.poly1d, value: float) -> float:
    """Return the coordinate at which ``line`` has ``value``."""
    return (value - line(0.0)) / line.coeffs[0]


def _detector_batch(model: Any, mapped: dict[str, Any]) -> Tensor:
    return model.preprocess_image([mapped]).tensor


def _classifier_batch(model: Any, mapped: dict[str, Any]) -> Tensor:
    return model.preprocess({"image": mapped["image"][None]})
