"""Read the mask of an annotation: polygons or an RLE."""

from dataclasses import dataclass
from operator import mul
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from .values import MistakeError, are_numbers, is_int, shown

_NUMBERS = {int, float, bool}
_NO_AREA = 1e-6  # square pixels

Bounds = tuple[float, float, float, float]
"""The least x, the least y, the greatest x and the greatest y, in pixels."""


@dataclass(frozen=True)
class Mask:
    """Hold what is known of a mask without drawing it; ``segmentation`` is as every reader takes it."""

    segmentation: Any
    bounds: Bounds
    area: float  # square pixels


def read_mask(segmentation: Any, width: int, height: int) -> Mask:
    """Read a segmentation that is neither missing nor empty.

    Raises:
        MistakeError: it is neither polygons nor an RLE that cover some of the image.
    """
    if isinstance(segmentation, dict):
        return _read_rle(segmentation, width, height)
    if not isinstance(segmentation, list):
        raise MistakeError("malformed polygon", f"segmentation is a {type(segmentation).__name__}")
    if not _NUMBERS.isdisjoint(map(type, segmentation)):
        raise MistakeError("flat segmentation", f"{len(segmentation)} numbers, not a list of polygons")
    (bounds, area), *others = map(_read_polygon, segmentation)
    if others:
        x0, y0, x1, y1 = zip(bounds, *(bounds for bounds, _ in others), strict=True)
        bounds = min(x0), min(y0), max(x1), max(y1)
        area += sum(area for _, area in others)
    if not _is_inside(bounds, width, height) or area < _NO_AREA:
        _check_drawn(segmentation, bounds, width, height)
    return Mask(segmentation, bounds, area)


def _read_polygon(polygon: Any) -> tuple[Bounds, float]:
    if not are_numbers(polygon):
        raise MistakeError("malformed polygon", f"not a flat list of finite numbers: {shown(polygon)}")
    if len(polygon) % 2:
        raise MistakeError("malformed polygon", f"{len(polygon)} coordinates, an odd number")
    if len(polygon) < 6:
        raise MistakeError("polygon with fewer than 3 points", f"{len(polygon) // 2} points")
    xs, ys = polygon[::2], polygon[1::2]
    return (min(xs), min(ys), max(xs), max(ys)), polygon_area(xs, ys)


def polygon_area(xs: list[float], ys: list[float]) -> float:
    """Return the area within a line that does not cross itself, in square pixels."""
    return abs(sum(map(mul, xs, ys[1:] + ys[:1])) - sum(map(mul, ys, xs[1:] + xs[:1]))) / 2


def _is_inside(bounds: Bounds, width: int, height: int) -> bool:
    """Tell whether polygons lie inside of the image.

    Raises:
        MistakeError: farther out than the image's size around it, where pycocotools' integers overflow or it fills
            the memory.
    """
    x0, y0, x1, y1 = bounds
    if x0 < -width or y0 < -height or x1 > 2 * width or y1 > 2 * height:
        raise _outside(bounds, width, height)
    return x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height


def _outside(bounds: Bounds, width: int, height: int) -> MistakeError:
    x0, y0, x1, y1 = bounds
    spans = f"x {x0:g} to {x1:g}, y {y0:g} to {y1:g}"
    return MistakeError("polygon outside the image", f"{spans} in {width}x{height} px")


def _check_drawn(polygons: list[list[float]], bounds: Bounds, width: int, height: int) -> None:
    """Check polygons that may cover nothing; detectron2 itself leaves out those of less than a pixel.

    Raises:
        MistakeError: they lie outside of the image, or enclose nothing.
    """
    drawn = mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    if mask_util.area(drawn):
        return
    for polygon in polygons:
        xs, ys = polygon[::2], polygon[1::2]
        if min(xs) < 0 or min(ys) < 0 or max(xs) > width or max(ys) > height:
            raise _outside(bounds, width, height)
        if polygon_area(xs, ys) < _NO_AREA:
            raise MistakeError("zero-area polygon", shown(polygon))


# ------------------------------------------------------------------------------------------------ RLE


def _read_rle(rle: dict, width: int, height: int) -> Mask:
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        raise MistakeError("malformed RLE", f"size {shown(size)}, the image has {[height, width]}")
    if isinstance(counts, str):
        runs = _decompressed(counts)
    elif isinstance(counts, list) and all(map(is_int, counts)):
        runs = counts
    else:
        raise MistakeError("malformed RLE", "counts are neither a list of integers nor a compressed string")
    # They are compared as Python's integers, which do not overflow.
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise MistakeError("malformed RLE", "counts do not add up to the size")
    ends = np.cumsum(np.array(runs, dtype=np.int64))
    inside = np.stack([ends[:-1:2], ends[1::2] - 1], 1) if len(runs) > 1 else np.empty((0, 2), np.int64)
    inside = inside[inside[:, 0] <= inside[:, 1]]  # runs of length zero are allowed
    if not len(inside):
        raise MistakeError("mask without a pixel", "the RLE covers nothing")
    area = int((inside[:, 1] - inside[:, 0] + 1).sum())
    return Mask({"size": [height, width], "counts": counts}, _bounds_of_runs(inside, height), area)


def _bounds_of_runs(inside: np.ndarray, height: int) -> Bounds:
    """Return the bounds of runs (N, 2) of first and last position, which go down the columns."""
    columns, rows = np.divmod(inside, height)
    over = columns[:, 0] != columns[:, 1]  # goes on in the next column: it touches both borders
    top, bottom = (0, height - 1) if over.any() else (rows[:, 0].min(), rows[:, 1].max())
    return float(columns[0, 0]), float(top), float(columns[-1, 1] + 1), float(bottom + 1)


def _decompressed(text: str) -> list[int]:
    """Return the runs of a compressed RLE: five bits a character, each run as the difference to that two before.

    pycocotools itself reads past the end of damaged ones.
    """
    runs: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or bits > 60:
            raise MistakeError("malformed RLE", f"counts are no compressed string: {shown(text)}")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:  # the last character of a run
            if code & 16:
                value -= 1 << bits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    if bits:
        raise MistakeError("malformed RLE", f"counts end within a run: {shown(text)}")
    return runs
