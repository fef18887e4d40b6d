"""The whole export: trace the model, write the files, read them again, and compare them with the model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...errors import ExportError
from .check import Comparison, compare, sizes_to_check
from .formats import FORMATS, trace
from .pyramid import FeaturePyramid

DTYPES = {"float32": torch.float32, "uint8": torch.uint8}


@dataclass(frozen=True)
class Exported:
    """Hold an exported file, and its differences from the model."""

    file: Path
    comparison: Comparison


def export_backbone(
    model: nn.Module,
    folder: str | Path,
    formats: Sequence[str] = ("torch", "onnx"),
    image_size: tuple[int, int] = (256, 320),
    dtype: str = "float32",
) -> list[Exported]:
    """Write ``folder/backbone.pt2`` and ``folder/backbone.onnx``, checked against PyTorch.

    Both take any batch, and any H and W that are multiples of the backbone's divisor; a file that differs from the
    model is removed.  Attention computes the map of all pairs of positions in 4 parts; one of them takes
    heads·(H·W/256)² bytes for each image at stride 16, and a few exist at a time.

    Args:
        model: a detector with FPN, which is not changed.
        folder: an existing folder for the files.
        formats: names among ``FORMATS``.
        image_size: (H, W) of the image that is traced; it is checked together with smaller sizes.
        dtype: of the image, "float32" or "uint8"; its values are RGB from 0 to 255 in both.

    Raises:
        ExportError: the model, a format or the size is not supported, a package is missing, or the check
            fails.
    """
    for name in formats:
        _check_known(name, FORMATS)
    _check_known(dtype, DTYPES)
    pyramid = FeaturePyramid(model)
    _check_size(pyramid, image_size)
    for name in formats:
        FORMATS[name].check_can_export(pyramid)
    example = torch.zeros(2, 3, *image_size, dtype=DTYPES[dtype])
    program = trace(pyramid, example)
    exported = []
    for name in formats:
        file = Path(folder) / f"backbone{FORMATS[name].suffix}"
        try:
            FORMATS[name].write(program, pyramid, file)
            sizes = sizes_to_check(pyramid, image_size)
            comparison = compare(pyramid, FORMATS[name].read(file), sizes, DTYPES[dtype])
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        exported.append(Exported(file, comparison))
    return exported


def _check_known(name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ExportError(f"unknown {name!r}; expected one of {', '.join(known)}")


def _check_size(pyramid: FeaturePyramid, image_size: tuple[int, int]) -> None:
    divisor, least = pyramid.divisor, pyramid.smallest_side
    if any(side % divisor or side < least for side in image_size):
        height, width = image_size
        raise ExportError(
            f"the image size {height}×{width} does not fit: height and width must be multiples of {divisor} "
            f"of at least {least}"
        )
