"""Read from tensors by name which network of ours they belong to, and check names and shapes by it."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, listed
from ..layers import LESA
from ..modeling import build_lesa_resnet
from ..modeling.resnet import EXPANSION
from .names import FLATTENED, STEM

SMALL: dict[str, Any] = {
    "base_channels": 8,
    "stem_channels": 8,
    "image_size": 32,
}  # names do not depend on sizes
FIRST_TABLES = "res4.1.conv2.binary.positions."
RES4_STRIDE = 16


def layer_names(names: Iterable[str]) -> set[str]:
    """Return the names of a complete LESA layer with the tables and offsets that ``names`` have."""
    names = set(names)
    with torch.device("meta"):
        layer = LESA(
            8, 8, num_heads=1, feat_size=2, positions=_positions(names), deformable=_is_deformable(names)
        )
    return set(layer.state_dict())


def backbone_names(names: Iterable[str], *, is_whole: bool = False, is_classifier: bool = False) -> set[str]:
    """Return the names of a complete backbone of the depth and with the operator that ``names`` have.

    ``is_whole`` wants all stages; else the backbone may end with an earlier one.
    """
    names = set(names)
    with torch.device("meta"):
        model = build_lesa_resnet(**_options(names), **SMALL, num_classes=1 if is_classifier else None)
    last = max((name[3] for name in names if re.match(r"res[2-5]\.", name)), default="5")
    expected = set(model.state_dict())
    if is_whole:
        return expected
    return {name for name in expected if not name.startswith("res") or name[3] <= last}


def check_backbone_shapes(weights: Mapping[str, Tensor]) -> str:
    """Check ``weights`` against the backbone that their names and first layers announce.

    What no weight depends on cannot be seen: strides but for those that decomposed position tables of a classifier
    show, and blocks that are missing at the end of a stage.

    Args:
        weights: complete, with the names of :func:`lesa_d2.modeling.build_lesa_resnet`.

    Returns:
        A description of the network: its depth, width and groups.

    Raises:
        CheckpointError: a tensor has another shape; lists the first ones.
    """
    options = _options(weights)
    try:
        classes = weights.get("linear.bias")
        options |= _widths(weights) | {
            "image_size": _image_size(weights),
            "res5_stride": _res5_stride(weights),
            "num_classes": None if classes is None else len(classes),
        }
        with torch.device("meta"):
            model = build_lesa_resnet(**options)
    except (ValueError, LookupError, ZeroDivisionError) as error:
        raise CheckpointError(f"these are not the shapes of a ResNet of ours: {error}") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wrong = [
        f"{name} {tuple(value.shape)}, expected {expected.get(name, 'no such tensor')}"
        for name, value in weights.items()
        if tuple(value.shape) != expected.get(name)
    ]
    if wrong:
        raise CheckpointError(f"the shapes are not those of a ResNet of ours: {listed(wrong)}")
    return (
        f"ResNet-{3 * sum(options['blocks']) + 2}, blocks {'-'.join(map(str, options['blocks']))}, "
        f"width multiplier {options['width_multiplier']}, groups {options['num_groups']}"
    )


def convolution_options(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return arguments of :func:`lesa_d2.modeling.build_lesa_resnet`, for a convolutional ResNet of these sizes.

    Args:
        weights: under our names, with any prefix.

    Raises:
        CheckpointError: these are not the weights of a ResNet with bottlenecks.
    """
    prefix = next((name.removesuffix(STEM) for name in weights if name.endswith(STEM)), "")
    trunk = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    options = _options(trunk)
    try:
        options |= _widths(trunk)
    except (LookupError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"these are not the weights of a ResNet with bottlenecks: no {error}"
        ) from error
    options["blocks"] = list(options["blocks"])
    return {key: value for key, value in options.items() if key not in ("operator", "positions")}


def _widths(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    base = weights["res2.0.conv3.weight"].shape[0] // EXPANSION
    middle = weights["res2.0.conv1.weight"].shape[0]
    return {
        "width_multiplier": middle // base,
        "num_groups": middle // weights["res2.0.conv2.weight"].shape[1],
        "stem_channels": weights[STEM].shape[0],
        "base_channels": base,
    }


def _options(names: Iterable[str]) -> dict[str, Any]:
    """Return the arguments of :func:`lesa_d2.modeling.build_lesa_resnet` that follow from names.

    A stage without names counts as one block, so that a check for completeness reports what it lacks.
    """
    blocks = dict.fromkeys("2345", 1)
    for name in names:
        if match := re.match(r"res([2-5])\.(\d{1,3})\.", name):
            blocks[match[1]] = max(blocks[match[1]], int(match[2]) + 1)
    return {
        "operator": "lesa" if any(".binary." in name for name in names) else "conv",
        "blocks": tuple(blocks.values()),
        "deformable": _is_deformable(names),
        "positions": _positions(names),
    }


def _positions(names: Iterable[str]) -> str:
    return "flattened" if any(name.endswith(FLATTENED) for name in names) else "decomposed"


def _is_deformable(names: Iterable[str]) -> bool:
    return any(".offset." in name for name in names)


def _res5_stride(weights: Mapping[str, Tensor]) -> int | None:
    """Return 2 where the tables of res5 are smaller than those of res4, as in the detection layout."""
    tables = [weights.get(f"{stage}.1.conv2.binary.positions.rel_width") for stage in ("res4", "res5")]
    first, last = (None if table is None else len(table) for table in tables)
    return 2 if first and last and last < first else None


def _image_size(weights: Mapping[str, Tensor]) -> int | tuple[int, int]:
    """Return the size of the images that the first position tables were made for."""
    if FIRST_TABLES + "table" in weights:
        positions = (weights[FIRST_TABLES + "table"].shape[1] + 1) // 2
        return RES4_STRIDE * math.isqrt(positions)
    sides = [weights.get(f"{FIRST_TABLES}rel_{axis}") for axis in ("height", "width")]
    height, width = (RES4_STRIDE * (len(t) + 1) // 2 if t is not None else 224 for t in sides)
    return height, width
