"""Convert state dicts of the authors' release and of torchvision to ours, and back.

``convert_*`` and ``to_official`` take and return plain state dicts.  They rename, with two exceptions: the
1-D projection of an attention layer gets, or loses, its fourth axis, and an index buffer that follows from
the size of a position table is left out, or computed.  The names are in :mod:`.names`.

Every key is accounted for, or it is an error.  The depth of a ResNet follows from its highest block in each
stage: a block that is missing before that one is an error, but blocks missing at the end of a stage look like
a shallower network.  Loading into a model finds them, since that knows its depth.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..layers.positions import offset_index
from .architecture import backbone_names, layer_names
from .names import (
    BACKBONE,
    BACKBONE_NAMES,
    CLASSIFIER_NAMES,
    COUNTER,
    DERIVED,
    FLATTENED,
    HTC_NAMES,
    LAYER_NAMES,
    MASK_RCNN_NAMES,
    Names,
    strip_prefixes,
)

StateDict = dict[str, Tensor]

TERMS = ("binary.", "unary.", "gate.")
PROJECTION = "binary.qkv.weight"
CASCADE = r"roi_head\.(semantic_head\.|\w+\.\d\.)"
"""Official names that only a cascade has."""


def convert_layer(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Convert one official LESA layer to the state dict of :class:`lesa_d2.layers.LESA`.

    The result loads with ``strict=True``.

    Raises:
        CheckpointError: lists every key that is left over and every one that is missing.
    """
    return LAYER.from_official(state_dict)


def convert_backbone(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Convert an official backbone to the state dict of :func:`lesa_d2.modeling.build_lesa_resnet`.

    The result loads with ``strict=True``.  Keys may carry the prefixes ``module.`` and ``backbone.``.

    Raises:
        CheckpointError: lists every key that is left over and every one that is missing.
    """
    return TRUNK.from_official(strip_prefixes(state_dict))


def convert_classifier(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Convert an official ImageNet classifier, or torchvision's, to the state dict of ours.

    Ours is ``build_lesa_resnet(..., num_classes=K)``, and the result loads with ``strict=True``.  Give the
    content of the official checkpoint's key ``net``, or the state dict of a ResNet, Wide ResNet or ResNeXt of
    torchvision with bottleneck blocks.  Keys may carry the prefixes ``module.`` and ``backbone.``.

    Raises:
        CheckpointError: lists every key that is left over and every one that is missing.
    """
    return CLASSIFIER.from_official(strip_prefixes(state_dict))


def convert_detector(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Convert an official Mask R-CNN or Hybrid Task Cascade to the state dict of our configs' model.

    The result loads with ``strict=True``.  Keys may carry the prefix ``module.``.

    Raises:
        CheckpointError: lists every key that is left over and every one that is missing.
    """
    stripped = strip_prefixes(state_dict, ("module.",))
    return _detector(stripped, CASCADE).from_official(stripped)


def to_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Convert our layer, backbone, classifier or detector to official names without prefix.

    This is the inverse of ``convert_*``.  Backbones and classifiers may carry the prefix ``backbone.``.

    Raises:
        CheckpointError: lists every name that is left over and every one that is missing.
    """
    stripped = strip_prefixes(state_dict, ("backbone.",))
    return _our_kind(stripped).to_official(stripped)


@dataclass(frozen=True)
class Kind:
    """Describe a kind of model: its names, and which of them it has to have, given those it has."""

    title: str
    names: Names
    expected: Callable[[Iterable[str]], set[str]]

    def from_official(self, state_dict: Mapping[str, Tensor]) -> StateDict:
        """Convert a state dict of official names to ours.

        Raises:
            CheckpointError: lists every key that is left over and every one that is missing.
        """
        converted, _, unknown = rename(self.names, state_dict)
        converted |= _absent_counters(converted)
        self._check(f"not a complete official {self.title}", unknown, converted)
        return converted

    def to_official(self, state_dict: Mapping[str, Tensor]) -> StateDict:
        """Convert a state dict of our names to official ones.

        Raises:
            CheckpointError: lists every name that is left over and every one that is missing.
        """
        converted, unknown = {}, []
        for name, value in state_dict.items():
            key = self.names.theirs(name)
            if key is None or name.endswith(DERIVED):
                unknown.append(name)
                continue
            converted[key] = value.squeeze(-1) if name.endswith(PROJECTION) else value
            if name.endswith(FLATTENED):
                index = self.names.theirs(name.removesuffix(FLATTENED) + DERIVED)
                converted[str(index)] = _flatten_index(value)
        self._check(f"not a {self.title} of the released layout", unknown, state_dict)
        return converted

    def _check(self, verdict: str, unknown: list[str], got: Iterable[str]) -> None:
        """Check that nothing is ``unknown`` and that ``got``, our names, are the expected ones."""
        expected, got = self.expected(got), set(got) - set(unknown)
        missing = [f"{name} (theirs: {self.names.theirs(name)})" for name in sorted(expected - got)]
        surplus = sorted(got - expected)
        if unknown or missing or surplus:
            raise CheckpointError(
                f"{verdict}: left over {sorted(unknown) or 'none'}, "
                f"missing (our names) {missing or 'none'}, of no use (our names) {surplus or 'none'}"
            )


def rename(names: Names, state_dict: Mapping[str, Tensor]) -> tuple[StateDict, dict[str, str], list[str]]:
    """Rename official tensors to ours.

    Returns:
        The tensors by our names, the official name of each, and the names that the table does not know.
    """
    converted, sources, unknown = {}, {}, []
    for key, value in state_dict.items():
        name = names.ours(key)
        if name is None or (name.endswith(DERIVED) and _table_of(names, name) not in state_dict):
            unknown.append(key)
        elif not name.endswith(DERIVED):
            # their projection is a 1-D convolution over the flattened map
            is_flat = name.endswith(PROJECTION) and value.dim() == 3
            converted[name], sources[name] = value[..., None] if is_flat else value, key
    return converted, sources, unknown


def _table_of(names: Names, index: str) -> str | None:
    return names.theirs(index.removesuffix(DERIVED) + FLATTENED)


def _absent_counters(converted: StateDict) -> StateDict:
    """Return zero batches for every norm of a file without such counters, as torch itself reads them."""
    if any(name.endswith(COUNTER) for name in converted):
        return {}
    norms = [name.removesuffix("running_var") for name in converted if name.endswith(".running_var")]
    return {norm + COUNTER: torch.tensor(0) for norm in norms}


def _flatten_index(table: Tensor) -> Tensor:
    """Return their index buffer, (n·n,): the table's column i − j + n − 1 of every pair of positions."""
    positions = (table.shape[1] + 1) // 2
    return offset_index(positions, table.device).T.flatten()


def _detector_keys(names: Names, keys: Iterable[str]) -> set[str]:
    """Return the names of a backbone, and weight and bias of everything else: no head has a norm."""
    trunk = [key.removeprefix(BACKBONE) for key in keys if key.startswith(BACKBONE)]
    backbone = backbone_names(trunk, is_whole=True)
    heads = [name for name in names.modules.values() if not name.startswith(BACKBONE)]
    return {BACKBONE + name for name in backbone} | {
        f"{n}.{leaf}" for n in heads for leaf in ("weight", "bias")
    }


LAYER = Kind("LESA layer", LAYER_NAMES, layer_names)
TRUNK = Kind("backbone", BACKBONE_NAMES, backbone_names)
CLASSIFIER = Kind("classifier", CLASSIFIER_NAMES, partial(backbone_names, is_whole=True, is_classifier=True))
MASK_RCNN = Kind("Mask R-CNN", MASK_RCNN_NAMES, partial(_detector_keys, MASK_RCNN_NAMES))
HTC = Kind("Hybrid Task Cascade", HTC_NAMES, partial(_detector_keys, HTC_NAMES))


def _detector(keys: Iterable[str], cascade: str) -> Kind:
    return HTC if any(re.match(cascade, key) for key in keys) else MASK_RCNN


def detector_names(keys: Iterable[str]) -> Names:
    """Return the table for the official names of a detector."""
    return _detector(keys, CASCADE).names


def _our_kind(keys: Iterable[str]) -> Kind:
    keys = set(keys)
    if any(key.startswith(TERMS) for key in keys):
        return LAYER
    if any(key.startswith((BACKBONE, "proposal_generator.", "roi_heads.")) for key in keys):
        return _detector(keys, r"roi_heads\.(semantic_head\.|\w+\.\d\.)")
    return CLASSIFIER if any(key.startswith("linear.") for key in keys) else TRUNK
