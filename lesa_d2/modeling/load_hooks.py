"""What our backbones do when a program loads weights into a detector without :mod:`lesa_d2.checkpoint`.

detectron2's checkpointer drops names that the model lacks and only logs them, so that a detector given a
classifier would train from almost nothing.  These hooks of ``load_state_dict`` convert a classifier where the
weights can be seen, and refuse it elsewhere.
"""

import logging
import re
from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..layers import SlotOperator

STEM, FLATTENED = "stem.conv1.weight", "positions.table"
OTHERS = re.compile(r"(.*\.)?(stem\.conv1\.weight|layer[1-4]\.0\.conv1\.weight)")
"""Names that only a ResNet's weights have: ours, and those of torchvision and the authors."""
ADVICE = (
    "Convert the file first (lesa convert --from imagenet-to-detector; lesa convert --help lists other kinds), or "
    "train with lesa train, which converts by itself"
)

logger = logging.getLogger(__name__)


def convert_classifier(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename a classifier's weights, in place, before an FPN loads them: its backbone is ``bottom_up``.

    Raises:
        CheckpointError: the weights are a classifier's, but do not convert.
    """
    bottom_up = f"{prefix}bottom_up."
    if prefix + STEM not in state_dict or any(name.startswith(bottom_up) for name in state_dict):
        return
    from ..checkpoint import (
        classifier_to_detector,
    )  # built on this package, and loaded by now or never needed
    from ..checkpoint.names import BACKBONE, CLASSIFIER

    given = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
    start = classifier_to_detector(
        {CLASSIFIER + name.removeprefix(prefix): value for name, value in given.items()}
    )
    state_dict |= {bottom_up + name.removeprefix(BACKBONE): value for name, value in start.weights.items()}
    logger.info(
        "Started from a classifier: %d tensors, %d of them converted; not used: %s",
        len(start.weights),
        len(start.converted),
        ", ".join(start.dropped),
    )


def refuse_other_layouts(
    module: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: dict,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Refuse weights of which a detector's ResNet would take nothing, or take convolutions without their norms.

    A module sees only the weights below its own name, but the names that those above it have no use for.

    Raises:
        CheckpointError: they are those of a classifier, or of another code base.
    """
    if not any(name.startswith(prefix) for name in state_dict):
        strangers = [name for name in unexpected_keys if OTHERS.fullmatch(name)]
        if strangers:
            raise CheckpointError(
                f"the weights are not those of this detector: expected names under {prefix!r}, got {strangers[0]!r}, "
                f"as of a classifier or another code base. {ADVICE}"
            )
        return
    names = {name for name, _ in module.named_parameters()}
    given = {name.removeprefix(prefix) for name in state_dict}
    slots = {name for name, child in module.named_modules() if isinstance(child, SlotOperator)}
    dense = sorted(f"{slot}.weight" for slot in slots if f"{slot}.weight" in given - names)
    if dense:
        raise CheckpointError(
            f"the weights hold convolutions, such as {prefix}{dense[0]}, in place of this model's operators. Convert "
            "the file first (lesa convert --from convolution), or train with lesa train, which converts by itself"
        )
    for name in (n for n in names if n.endswith("binary.qkv.weight")):
        slot = name.removesuffix("qkv.weight")
        if name in given and f"{slot}logit_norm.weight" not in given:
            raise CheckpointError(
                f"the weights of {prefix}{slot.removesuffix('.')} are those of a classifier, whose norms and positions "
                f"have other shapes. {ADVICE}"
            )
