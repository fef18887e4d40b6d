"""Comparison of an exported file with its model, also at sizes that were not traced."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tabulate import tabulate

from ...errors import ExportError
from .formats import Run
from .pyramid import FeaturePyramid

TOLERANCE = 1e-4  # of an output's largest value, in float32
Size = tuple[int, int, int]
"""Images, height, width."""


@dataclass(frozen=True)
class Comparison:
    """Hold the largest difference of every output, as a share of that output's largest value, by size and name."""

    differences: dict[Size, dict[str, float]]

    @property
    def largest(self) -> float:
        """Return the largest difference of all sizes and outputs."""
        return max(value for row in self.differences.values() for value in row.values())

    def __str__(self) -> str:
        names = list(next(iter(self.differences.values())))
        rows = [
            (images, f"{height}×{width}", *(f"{row[name]:.1e}" for name in names))
            for (images, height, width), row in self.differences.items()
        ]
        return tabulate(rows, headers=("images", "size", *names), disable_numparse=True)


def sizes_to_check(pyramid: FeaturePyramid, image_size: tuple[int, int]) -> list[Size]:
    """Return the traced size with other batches, and small squares, wide and high rectangles."""
    least, step = pyramid.smallest_side, pyramid.divisor
    return [
        (1, *image_size),
        (3, least, least),
        (1, least + step, least + step),
        (2, least + 2 * step, least),
        (1, least, least + 4 * step),
    ]


def compare(pyramid: FeaturePyramid, run: Run, sizes: Sequence[Size], dtype: torch.dtype) -> Comparison:
    """Compare ``run`` with ``pyramid`` on random smooth images of every size, in ``dtype``.

    Raises:
        ExportError: the file does not run at one of the sizes, or its outputs differ from the model's.
    """
    differences: dict[Size, dict[str, float]] = {}
    for images, height, width in sizes:
        image = smooth_images((images, height, width), dtype)
        with torch.no_grad():
            expected = pyramid(image)
            try:
                received = run(image)
            except Exception as error:  # the exceptions depend on the program that runs the file
                raise ExportError(
                    f"the exported file does not run on {images} images of {height}×{width}, although it "
                    f"should on any size: {error}"
                ) from error
        if received.keys() != expected.keys():
            raise ExportError(f"the exported file gives {sorted(received)}, expected {sorted(expected)}")
        differences[images, height, width] = {
            name: _difference(received[name], value) for name, value in expected.items()
        }
    comparison = Comparison(differences)
    check_tolerance(comparison, lambda: _excuse(pyramid, sizes, dtype))
    return comparison


def check_tolerance(comparison: Comparison, excuse: Callable[[], str] = str) -> None:
    """Check that nothing differs by more than ``TOLERANCE``.

    Raises:
        ExportError: something does; the message has the table, and what ``excuse`` returns.
    """
    if not comparison.largest <= TOLERANCE:
        raise ExportError(
            f"the exported file is not the model: differs by up to {comparison.largest:.1e} of an output's "
            f"largest value, where {TOLERANCE:g} is allowed{excuse()}\n{comparison}"
        )


def _excuse(pyramid: FeaturePyramid, sizes: Sequence[Size], dtype: torch.dtype) -> str:
    """Return an explanation if PyTorch's float32 and float64 differ as much, so that the check decides nothing."""
    images, height, width = min(sizes, key=math.prod)
    image = torch.randint(256, (images, 3, height, width), generator=torch.Generator().manual_seed(0)).to(
        dtype
    )
    with torch.no_grad():
        narrow, wide = pyramid(image), copy.deepcopy(pyramid).double()(image)
    rounding = max(_difference(narrow[name], value) for name, value in wide.items())
    if rounding <= TOLERANCE:
        return ""
    return (
        f". PyTorch's float32 itself is {rounding:.1e} from its float64: this model amplifies rounding, as "
        "large ones with initial values do, and cannot be checked; export trained weights"
    )


def smooth_images(size: Size, dtype: torch.dtype) -> torch.Tensor:
    """Return random images of soft blobs; on white noise, unlike on pictures, a model may amplify rounding errors."""
    images, height, width = size
    coarse = torch.rand(
        images, 3, -(-height // 16), -(-width // 16), generator=torch.Generator().manual_seed(0)
    )
    return (255 * F.interpolate(coarse, size=(height, width), mode="bilinear")).to(dtype)


def _difference(received: torch.Tensor, expected: torch.Tensor) -> float:
    if received.shape != expected.shape or not received.isfinite().all():
        return float("inf")
    return float((received - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
