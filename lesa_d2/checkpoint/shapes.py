"""Whether the tensors of a converted backbone fit together: a ResNeXt has the names of a ResNet."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError, listed
from ..modeling import build_lesa_resnet
from ..modeling.resnet import EXPANSION

FIRST_TABLE = "res4.1.conv2.binary.positions."
RES4_STRIDE = 16


def check_backbone_shapes(weights: Mapping[str, Tensor]) -> None:
    """CheckpointError unless ``weights`` have the shapes of the backbone that their first layers announce.

    Args:
        weights: names of :func:`lesa_d2.modeling.build_lesa_resnet` with LESA or convolutions.
    """
    base = weights["res2.0.conv3.weight"].shape[0] // EXPANSION
    classes = weights.get("linear.bias")
    try:
        with torch.device("meta"):
            model = build_lesa_resnet(
                "lesa" if any(".binary." in name for name in weights) else "conv",
                width_multiplier=weights["res2.0.conv1.weight"].shape[0] // max(base, 1),
                deformable=any(".offset." in name for name in weights),
                image_size=_image_size(weights),
                num_classes=None if classes is None else len(classes),
                stem_channels=weights["stem.conv1.weight"].shape[0],
                base_channels=base,
            )
    except (ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"these are not the shapes of a ResNet of ours: {error}") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wrong = [
        f"{name} {tuple(value.shape)}, expected {expected[name]}"
        for name, value in weights.items()
        if name in expected and tuple(value.shape) != expected[name]
    ]
    if wrong:
        raise CheckpointError(f"the names are right, but not the shapes: {listed(wrong)}")


def _image_size(weights: Mapping[str, Tensor]) -> int | tuple[int, int]:
    """Of the images that the first position tables were made for."""
    if FIRST_TABLE + "table" in weights:
        places = (weights[FIRST_TABLE + "table"].shape[1] + 1) // 2
        return RES4_STRIDE * math.isqrt(places)
    sides = [weights.get(f"{FIRST_TABLE}rel_{axis}") for axis in ("height", "width")]
    height, width = (RES4_STRIDE * (len(t) + 1) // 2 if t is not None else 224 for t in sides)
    return height, width
