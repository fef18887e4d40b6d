"""Checkpoints of the authors' release -> ours: renames only, every key accounted for.

``convert_layer`` and ``convert_backbone`` take and return plain state dicts.  The tables below are the whole
knowledge about names; `layer{k}.{b}` is `res{k+1}.{b}`, and a block's `bn{j}` is the norm of its `conv{j}`.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

StateDict = dict[str, Tensor]

PREFIXES = ("module.", "backbone.")

# Members of a LESA layer: official -> ours.  The index buffer follows from the table's size.
LAYER_MEMBERS = {
    "qkv_transform": "binary.qkv",
    "bn_qkv": "binary.qkv_norm",
    "bn_similarity": "binary.logit_norm",
    "bn_output": "binary.out_norm",
    "rel_height": "binary.positions.rel_height",
    "rel_width": "binary.positions.rel_width",
    "relative": "binary.positions.table",
    "x_transform.0.conv_offset": "unary.conv.offset",
    "x_transform.0": "unary.conv",
    "x_transform.1": "unary.project",
    "bn_x": "unary.norm",
    "reasoning.1": "gate.fc1",
    "reasoning.2": "gate.norm1",
    "projection.0": "gate.fc2",
    "projection.1": "gate.norm2",
}
DERIVED = {"flatten_index"}

BLOCK_MEMBERS = {
    "conv1": "conv1",
    "bn1": "conv1.norm",
    "conv2.conv_offset": "conv2.offset",
    "conv2": "conv2",
    "bn2": "conv2.norm",
    "conv3": "conv3",
    "bn3": "conv3.norm",
    "downsample.0": "shortcut",
    "downsample.1": "shortcut.norm",
}
STEM_MEMBERS = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm"}

BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}  # every released model is a ResNet-50 or a WideResNet-50-2
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
LEAVES = r"(?:\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?"


def convert_layer(state_dict: Mapping[str, Tensor]) -> StateDict:
    """One official LESA layer -> the state dict of :class:`lesa_d2.layers.LESA`, for ``strict=True``.

    Raises:
        ValueError: lists every key that is left over and every one that is missing.
    """
    converted, unknown = {}, []
    for key, value in state_dict.items():
        name = _rename(key, LAYER_MEMBERS)
        if name is not None:
            # their projection is a 1-D convolution over the flattened map
            converted[name] = value[..., None] if name == "binary.qkv.weight" and value.dim() == 3 else value
        elif key not in DERIVED:
            unknown.append(key)
    _raise_if_incomplete("LESA layer", unknown, _layer_keys(converted), converted)
    return converted


def convert_backbone(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Official backbone -> the state dict of :func:`lesa_d2.modeling.build_lesa_resnet`, for ``strict=True``.

    Keys may carry the prefixes ``module.`` and ``backbone.``.

    Raises:
        ValueError: lists every key that is left over and every one that is missing.
    """
    converted: StateDict = {}
    layers: dict[str, StateDict] = {}
    unknown = []
    for key, value in strip_prefixes(state_dict).items():
        block = re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", key)
        if block is None:
            name = _rename(key, STEM_MEMBERS)
        else:
            stage, index, member = int(block[1]) + 1, block[2], block[3]
            name = _rename(member, BLOCK_MEMBERS, prefix=f"res{stage}.{index}.")
            if name is None and member.startswith("conv2."):
                layer = layers.setdefault(f"res{stage}.{index}.conv2.", {})
                layer[member.removeprefix("conv2.")] = value
                continue
        if name is None:
            unknown.append(key)
        else:
            converted[name] = value
    for prefix, layer in layers.items():
        converted.update({prefix + name: value for name, value in _convert_named(prefix, layer).items()})
    _raise_if_incomplete("backbone", unknown, _backbone_keys(converted), converted)
    return converted


def strip_prefixes(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Remove the prefixes that data parallelism and detectors put before a backbone's names."""
    stripped = dict(state_dict)
    for prefix in PREFIXES:
        if stripped and all(key.startswith(prefix) for key in stripped):
            stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def _convert_named(prefix: str, layer: StateDict) -> StateDict:
    try:
        return convert_layer(layer)
    except ValueError as error:
        raise ValueError(f"in {prefix.rstrip('.')}: {error}") from None


def _rename(key: str, members: Mapping[str, str], prefix: str = "") -> str | None:
    """Our name of ``key``, a member with one of the usual leaves; None when no member matches."""
    for theirs, ours in members.items():
        if re.fullmatch(re.escape(theirs) + LEAVES, key):
            return prefix + ours + key[len(theirs) :]
    return None


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
    if "binary.positions.table" in keys:
        return expected | {"binary.positions.table"}
    return expected | {"binary.positions.rel_height", "binary.positions.rel_width"}


def _backbone_keys(keys: Iterable[str]) -> set[str]:
    """The names a complete backbone has, given its last stage and what the slots hold."""
    keys = set(keys)
    slots = {key for key in keys if re.fullmatch(r"res\d\.\d+\.conv2\.(binary|unary|gate)\..*", key)}
    expected = {"stem.conv1.weight"} | _norm("stem.conv1.norm") | slots  # layers were checked one by one
    last = max((int(key[3]) for key in keys if re.match(r"res\d\.", key)), default=5)
    for stage in range(2, last + 1):  # a backbone may be cut after a stage, as ResNet's out_features do
        for index in range(BLOCKS[stage]):
            block = f"res{stage}.{index}."
            expected |= _block_keys(block, keys, has_shortcut=index == 0)
    return expected


def _block_keys(block: str, keys: set[str], has_shortcut: bool) -> set[str]:
    convs = ["conv1", "conv3"] + ["shortcut"] * has_shortcut
    slot = block + "conv2."
    if not any(key.startswith(slot + term) for key in keys for term in ("binary.", "unary.", "gate.")):
        convs.append("conv2")
    expected = {f"{block}{conv}.weight" for conv in convs}
    for conv in convs:
        expected |= _norm(f"{block}{conv}.norm")
    if any(key.startswith(slot + "offset.") for key in keys):
        expected |= {slot + "offset.weight", slot + "offset.bias"}
    return expected


def _raise_if_incomplete(what: str, unknown: list[str], expected: set[str], got: Iterable[str]) -> None:
    missing = sorted(expected - set(got))
    surplus = sorted(set(got) - expected)
    if unknown or missing or surplus:
        raise ValueError(
            f"not a complete official {what}: left over {sorted(unknown) or 'none'}, "
            f"missing (our names) {missing or 'none'}, of no use (our names) {surplus or 'none'}"
        )
