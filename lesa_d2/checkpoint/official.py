"""Checkpoints of the authors' release and of torchvision -> ours, and back: every key accounted for.

``convert_*`` and ``to_official`` take and return plain state dicts.  They rename, with two exceptions: the
1-D projection of an attention layer gets, or loses, its fourth axis, and an index buffer that follows from
the size of a position table is left out, or computed.  The names are in :mod:`.names`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..layers.positions import offset_index
from .names import (
    BACKBONE,
    BACKBONE_NAMES,
    BLOCKS,
    CLASSIFIER_NAMES,
    DERIVED,
    HTC_NAMES,
    LAYER_NAMES,
    MASK_RCNN_NAMES,
    NORM_LEAVES,
    Names,
)

StateDict = dict[str, Tensor]

PREFIXES = ("module.", "backbone.")
TERMS = ("binary.", "unary.", "gate.")
PROJECTION = "binary.qkv.weight"
TABLE = "binary.positions.table"
COUNTER = "num_batches_tracked"


def convert_layer(state_dict: Mapping[str, Tensor]) -> StateDict:
    """One official LESA layer -> the state dict of :class:`lesa_d2.layers.LESA`, for ``strict=True``.

    Raises:
        CheckpointError: lists every key that is left over and every one that is missing.
    """
    return LAYER.from_official(state_dict)


def convert_backbone(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Official backbone -> the state dict of :func:`lesa_d2.modeling.build_lesa_resnet`, for ``strict=True``.

    Keys may carry the prefixes ``module.`` and ``backbone.``.

    Raises:
        CheckpointError: lists every key that is left over and every one that is missing.
    """
    return TRUNK.from_official(strip_prefixes(state_dict))


def convert_classifier(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Official or torchvision's ImageNet classifier -> the state dict of ours, for ``strict=True``.

    Ours is ``build_lesa_resnet(..., num_classes=K)``.  Takes the content of the official checkpoint's key
    ``net``, or the state dict of torchvision's ``resnet50`` or ``wide_resnet50_2``; keys may carry the
    prefixes ``module.`` and ``backbone.``.

    Raises:
        CheckpointError: lists every key that is left over and every one that is missing.
    """
    return CLASSIFIER.from_official(strip_prefixes(state_dict))


def convert_detector(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Official Mask R-CNN or Hybrid Task Cascade -> the state dict of our configs', for ``strict=True``.

    Keys may carry the prefix ``module.``.

    Raises:
        CheckpointError: lists every key that is left over and every one that is missing.
    """
    stripped = strip_prefixes(state_dict, ("module.",))
    return _detector(stripped, r"roi_head\.(semantic_head\.|\w+\.\d\.)").from_official(stripped)


def to_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """The inverse of ``convert_*``: our layer, backbone, classifier or detector -> official names, no prefix.

    Backbones and classifiers may carry the prefix ``backbone.``.

    Raises:
        CheckpointError: lists every name that is left over and every one that is missing.
    """
    stripped = strip_prefixes(state_dict, ("backbone.",))
    return _our_kind(stripped).to_official(stripped)


@dataclass(frozen=True)
class Kind:
    """A kind of model: its names, and those it has to have, given what it has."""

    title: str
    names: Names
    expected: Callable[[Iterable[str]], set[str]]

    def from_official(self, state_dict: Mapping[str, Tensor]) -> StateDict:
        converted, unknown = {}, []
        for key, value in state_dict.items():
            name = self.names.ours(key)
            if name is None or (name.endswith(DERIVED) and self._table_of(name) not in state_dict):
                unknown.append(key)
            elif not name.endswith(DERIVED):
                # their projection is a 1-D convolution over the flattened map
                is_flat = name.endswith(PROJECTION) and value.dim() == 3
                converted[name] = value[..., None] if is_flat else value
        converted |= _absent_counters(converted)
        self._check(f"not a complete official {self.title}", unknown, converted)
        return converted

    def to_official(self, state_dict: Mapping[str, Tensor]) -> StateDict:
        converted, unknown = {}, []
        for name, value in state_dict.items():
            key = self.names.theirs(name)
            if key is None or name.endswith(DERIVED):
                unknown.append(name)
                continue
            converted[key] = value.squeeze(-1) if name.endswith(PROJECTION) else value
            if name.endswith(TABLE):
                index = self.names.theirs(name.removesuffix(TABLE) + DERIVED)
                converted[str(index)] = _flatten_index(value)
        self._check(f"not a {self.title} of the released layout", unknown, state_dict)
        return converted

    def _table_of(self, index: str) -> str | None:
        return self.names.theirs(index.removesuffix(DERIVED) + TABLE)

    def _check(self, verdict: str, unknown: list[str], got: Iterable[str]) -> None:
        """CheckpointError unless nothing is ``unknown`` and ``got``, our names, are the expected ones."""
        expected, got = self.expected(got), set(got) - set(unknown)
        missing = [f"{name} (theirs: {self.names.theirs(name)})" for name in sorted(expected - got)]
        surplus = sorted(got - expected)
        if unknown or missing or surplus:
            raise CheckpointError(
                f"{verdict}: left over {sorted(unknown) or 'none'}, "
                f"missing (our names) {missing or 'none'}, of no use (our names) {surplus or 'none'}"
            )


def strip_prefixes(state_dict: Mapping[str, Tensor], prefixes: Iterable[str] = PREFIXES) -> StateDict:
    """Remove the prefixes that data parallelism and detectors put before a backbone's names."""
    stripped = dict(state_dict)
    for prefix in prefixes:
        if stripped and all(key.startswith(prefix) for key in stripped):
            stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def _absent_counters(converted: StateDict) -> StateDict:
    """Zero batches for every norm of a file older than these counters, as torch itself reads such files."""
    if any(name.endswith(COUNTER) for name in converted):
        return {}
    norms = [name.removesuffix("running_var") for name in converted if name.endswith(".running_var")]
    return {norm + COUNTER: torch.tensor(0) for norm in norms}


def _flatten_index(table: Tensor) -> Tensor:
    """Their index buffer, (n·n,): the table's column i − j + n − 1 of every pair."""
    places = (table.shape[1] + 1) // 2
    return offset_index(places, table.device).T.flatten()


def _norm(name: str) -> set[str]:
    return {f"{name}.{leaf}" for leaf in NORM_LEAVES}


def _layer_keys(keys: Iterable[str]) -> set[str]:
    """The names a complete LESA layer has, given its position type and whether its unary is deformable."""
    keys = set(keys)
    expected = {"binary.qkv.weight", "unary.conv.weight", "unary.project.weight"}
    expected |= {"gate.fc1.weight", "gate.fc2.weight"}
    for norm in ("binary.qkv", "binary.logit", "binary.out"):
        expected |= _norm(f"{norm}_norm")
    for norm in ("unary.norm", "gate.norm1", "gate.norm2"):
        expected |= _norm(norm)
    if any(key.startswith("unary.conv.offset") for key in keys):
        expected |= {"unary.conv.offset.weight", "unary.conv.offset.bias"}
    if TABLE in keys:
        return expected | {TABLE}
    return expected | {"binary.positions.rel_height", "binary.positions.rel_width"}


def _backbone_keys(keys: Iterable[str], last: int | None = None) -> set[str]:
    """The names a complete backbone has, given what the slots hold.

    ``last`` is its last stage; None takes it from ``keys``, as a backbone may be cut like ResNet's
    out_features do.
    """
    keys = set(keys)
    expected = {"stem.conv1.weight"} | _norm("stem.conv1.norm")
    last = last or max((int(key[3]) for key in keys if re.match(r"res[2-5]\.", key)), default=5)
    for stage in range(2, last + 1):
        for index in range(BLOCKS[stage]):
            block = f"res{stage}.{index}."
            members = _below(block, keys)
            expected |= {block + name for name in _block_keys(members, has_shortcut=index == 0)}
    return expected


def _block_keys(keys: set[str], has_shortcut: bool) -> set[str]:
    slot = _below("conv2.", keys)
    expected = set()
    convs = ["conv1", "conv3"] + ["shortcut"] * has_shortcut
    if any(name.startswith(TERMS) for name in slot):
        expected |= {"conv2." + name for name in _layer_keys(slot)}
    else:
        convs.append("conv2")
    for conv in convs:
        expected |= {f"{conv}.weight"} | _norm(f"{conv}.norm")
    if any(name.startswith("offset.") for name in slot):
        expected |= {"conv2.offset.weight", "conv2.offset.bias"}
    return expected


def _classifier_keys(keys: Iterable[str]) -> set[str]:
    return _backbone_keys(keys, last=5) | {"linear.weight", "linear.bias"}


def _detector_keys(names: Names, keys: Iterable[str]) -> set[str]:
    """A backbone, and weight and bias of everything else: no head has a norm."""
    backbone = _backbone_keys(_below(BACKBONE, keys), last=5)
    heads = [name for name in names.modules.values() if not name.startswith(BACKBONE)]
    return {BACKBONE + name for name in backbone} | {
        f"{n}.{leaf}" for n in heads for leaf in ("weight", "bias")
    }


def _below(prefix: str, keys: Iterable[str]) -> set[str]:
    return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}


LAYER = Kind("LESA layer", LAYER_NAMES, _layer_keys)
TRUNK = Kind("backbone", BACKBONE_NAMES, _backbone_keys)
CLASSIFIER = Kind("classifier", CLASSIFIER_NAMES, _classifier_keys)
MASK_RCNN = Kind("Mask R-CNN", MASK_RCNN_NAMES, partial(_detector_keys, MASK_RCNN_NAMES))
HTC = Kind("Hybrid Task Cascade", HTC_NAMES, partial(_detector_keys, HTC_NAMES))


def _detector(keys: Iterable[str], cascade: str) -> Kind:
    return HTC if any(re.match(cascade, key) for key in keys) else MASK_RCNN


def _our_kind(keys: Iterable[str]) -> Kind:
    keys = set(keys)
    if any(key.startswith(TERMS) for key in keys):
        return LAYER
    if any(key.startswith((BACKBONE, "proposal_generator.", "roi_heads.")) for key in keys):
        return _detector(keys, r"roi_heads\.(semantic_head\.|\w+\.\d\.)")
    return CLASSIFIER if any(key.startswith("linear.") for key in keys) else TRUNK
