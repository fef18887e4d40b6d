"""Make the weights that a detector starts from out of those of our classifier.

ImageNet models have flattened positions, detectors decomposed ones, so that three things differ inside an
attention layer: the logits lose their third term and with it a third of their norm, the output loses the
position-dependent values and with them every second channel of its norm, and the tables are others.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError, listed
from .kinds import kind_of
from .names import BACKBONE, CLASSIFIER, FLATTENED, STEM, TABLE

NORM_VECTORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class DetectorStart:
    """Hold what a classifier gives to a detector.

    ``weights`` carry the detector's names; ``converted`` maps those whose values were selected to what was
    done; ``dropped`` maps the classifier's names that a detector has no use for to the reason.
    """

    weights: dict[str, Tensor]
    converted: dict[str, str]
    dropped: dict[str, str]


def classifier_to_detector(
    state_dict: Mapping[str, Tensor], *, keep_positions: bool = False
) -> DetectorStart:
    """Convert our classifier's weights, their names bare or under ``backbone.``, for the start of a detector.

    Flattened attention becomes decomposed: the norms keep the channels of the terms that stay.  Position tables
    are left out, so that the detector's keep their initial values, as in section 4.2 of the paper;
    ``keep_positions`` keeps those that are decomposed, for maps of their own size or to be interpolated.

    Raises:
        CheckpointError: the names are not a classifier's, or a norm has no channels of three logit terms.
    """
    if kind_of(state_dict) != "classifier":
        raise CheckpointError(_not_a_classifier(state_dict))
    prefix = CLASSIFIER if CLASSIFIER + STEM in state_dict else ""
    flattened = {name.removesuffix(FLATTENED) for name in state_dict if name.endswith(FLATTENED)}
    weights: dict[str, Tensor] = {}
    converted, dropped = {}, {}
    for name, value in state_dict.items():
        reason = _why_dropped(name, prefix, keep_positions)
        if reason:
            dropped[name] = reason
            continue
        target = BACKBONE + name.removeprefix(prefix)
        slot, member = _split_slot(name)
        weights[target] = value
        if slot in flattened and member in SELECTIONS:
            select, converted[target] = SELECTIONS[member]
            weights[target] = select(name, value)
    return DetectorStart(weights, converted, dropped)


def _why_dropped(name: str, prefix: str, keep_positions: bool) -> str:
    if not name.startswith(prefix):
        return "not part of the backbone"
    if name.removeprefix(prefix).startswith("linear."):
        return "detectors have no classifier"
    if name.endswith(FLATTENED) or (TABLE.fullmatch(name) and not keep_positions):
        return "the position tables of a detector start fresh"
    return ""


def _split_slot(name: str) -> tuple[str, str]:
    """Return such as ("res4.1.conv2.", "binary.out_norm.weight"); the second is "" outside binary terms."""
    slot, dot, member = name.partition(".binary.")
    return (slot + ".", "binary." + member) if dot else (name, "")


def _first_terms(name: str, value: Tensor) -> Tensor:
    if len(value) % 3:
        raise CheckpointError(
            f"{name} has {len(value)} channels; expected a multiple of 3, one for each head and logit term"
        )
    return value[: 2 * len(value) // 3]


def _even_channels(name: str, value: Tensor) -> Tensor:
    if len(value) % 2:
        raise CheckpointError(f"{name} has {len(value)} channels; expected two for each channel of the layer")
    return value[::2]


Selection = tuple[Callable[[str, Tensor], Tensor], str]
LOGITS: Selection = (_first_terms, "channels of the first 2 of 3 logit terms")
OUTPUTS: Selection = (_even_channels, "even channels, of the attended values")
SELECTIONS: dict[str, Selection] = {
    f"binary.{norm}.{leaf}": selection
    for norm, selection in (("logit_norm", LOGITS), ("out_norm", OUTPUTS))
    for leaf in NORM_VECTORS
}


def _not_a_classifier(names: Iterable[str]) -> str:
    names = list(names)
    return (
        f"not the weights of a classifier of lesa_d2: expected {STEM!r}, res2 … res5, bare or under "
        f"{CLASSIFIER!r}, got {listed(names) or 'nothing'}"
    )
