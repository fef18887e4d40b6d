"""An exported file beside the model it came from, at sizes that it was not traced with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tabulate import tabulate

from ..errors import ExportError
from .formats import Run
from .pyramid import FeaturePyramid

TOLERANCE = 1e-4  # of an output's largest value, in float32
Size = tuple[int, int, int]
"""Images, height, width."""


@dataclass(frozen=True)
class Comparison:
    """Largest differences of every output by its name, as shares of that output's largest value, by size."""

    differences: dict[Size, dict[str, float]]

    @property
    def largest(self) -> float:
        return max(value for row in self.differences.values() for value in row.values())

    def __str__(self) -> str:
        names = list(next(iter(self.differences.values())))
        rows = [
            (images, f"{height}×{width}", *(f"{row[name]:.1e}" for name in names))
            for (images, height, width), row in self.differences.items()
        ]
        return tabulate(rows, headers=("images", "size", *names), disable_numparse=True)


def sizes_to_check(pyramid: FeaturePyramid, image_size: tuple[int, int]) -> list[Size]:
    """The traced size with other batches, and small squares and rectangles of every orientation."""
    least, step = pyramid.smallest_side, pyramid.divisor
    return [
        (1, *image_size),
        (3, least, least),
        (1, least + step, least + step),
        (2, least + 2 * step, least),
        (1, least, least + 4 * step),
    ]


def compare(pyramid: FeaturePyramid, run: Run, sizes: Sequence[Size], dtype: torch.dtype) -> Comparison:
    """``run`` against ``pyramid`` on random images of every size, in ``dtype``.

    Raises:
        ExportError: a size at which the file does not run, or gives something else.
    """
    generator = torch.Generator().manual_seed(0)
    found: dict[Size, dict[str, float]] = {}
    for images, height, width in sizes:
        image = torch.randint(256, (images, 3, height, width), generator=generator).to(dtype)
        with torch.no_grad():
            expected = pyramid(image)
            try:
                received = run(image)
            except Exception as error:  # of whatever runs the file
                raise ExportError(
                    f"the exported file does not run on {images} images of {height}×{width}, although it "
                    f"should on any size: {error}"
                ) from error
        if received.keys() != expected.keys():
            raise ExportError(f"the exported file gives {sorted(received)}, expected {sorted(expected)}")
        found[images, height, width] = {
            name: _difference(received[name], value) for name, value in expected.items()
        }
    comparison = Comparison(found)
    if not comparison.largest <= TOLERANCE:
        raise ExportError(
            f"the exported file is not the model: differs by up to {comparison.largest:.1e} of an output's "
            f"largest value, where {TOLERANCE:g} is allowed\n{comparison}"
        )
    return comparison


def _difference(received: torch.Tensor, expected: torch.Tensor) -> float:
    if received.shape != expected.shape or not received.isfinite().all():
        return float("inf")
    return float((received - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
