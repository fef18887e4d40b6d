"""Sheets of pictures with truth and predictions, drawn by detectron2's Visualizer."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import Instances

from ...data.pictures import read_picture
from ...storage import whole_file
from .drawing import ClassVisualizer, add_title, drawn_of, most_confident, shortened

GAP = 6  # white pixels between tiles
TILE_WIDTH = 320  # pixels; small images are drawn enlarged, so that their labels can be read
SHEET_TITLE = 22  # pixels, height of the letters in the title of a sheet
PHOTO_WIDTH = 420  # pixels, for pictures with many objects


def _stack(images: list[np.ndarray], axis: int) -> np.ndarray:
    """Put images side by side (axis 1) or one below the other (axis 0), padded with white to a common size."""
    other = 1 - axis
    size = max(image.shape[other] for image in images)
    padded = []
    for image in images:
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (0, GAP)
        pad[other] = (0, size - image.shape[other])
        padded.append(np.pad(image, pad, constant_values=255))
    return np.concatenate(padded, axis=axis)


def truth_tile(record: dict, class_names: Sequence[str], width: int = PHOTO_WIDTH) -> np.ndarray:
    """Return the picture of a dataset dict with its objects, (h, width, 3) RGB, below the name of its file."""
    drawn = _canvas(record, class_names, width).draw_truth(record)
    return add_title(drawn, f"{Path(record['file_name']).name}: truth")


def detections_tile(
    record: dict,
    class_names: Sequence[str],
    detections: Instances,
    caption: str = "",
    width: int = PHOTO_WIDTH,
) -> np.ndarray:
    """Return the picture of a dataset dict with its surest detections, (h, width, 3) RGB, below a caption.

    A second line of the caption, or the only one, says how many of the detections are drawn.
    """
    drawn = _canvas(record, class_names, width).draw_detections(most_confident(detections))
    titled = add_title(drawn, drawn_of(len(detections)))
    return add_title(titled, caption) if caption else titled


def _canvas(record: dict, class_names: Sequence[str], width: int) -> ClassVisualizer:
    image = read_picture(record["file_name"])
    return ClassVisualizer(image, [*map(shortened, class_names)], width)


def write_sheet(tiles: list[np.ndarray], columns: int, file: str | Path, title: str) -> Path:
    """Write pictures (H, W, 3) RGB to a PNG, ``columns`` in each row, and return the file.

    Above them stands the title, a line for each part of it that stands between colons, as in plots.
    """
    rows = [_stack(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    sheet = _stack(rows, axis=0)
    for line in reversed(title.split(": ")):
        sheet = add_title(sheet, line, most=SHEET_TITLE)
    return write_picture(sheet[:, :, ::-1], Path(file))


def write_picture(picture: np.ndarray, file: Path) -> Path:
    """Write a picture (H, W, 3) BGR in the format of the file's suffix, and return the file.

    Raises:
        StorageError: the file cannot be written.
    """
    with whole_file(file) as unfinished:
        unfinished.write_bytes(cv2.imencode(file.suffix, picture)[1].tobytes())
    return file
