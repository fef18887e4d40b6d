"""Names of tensors in the authors' checkpoints and in ours.

One table a kind of model is read in both directions.  It maps modules, or parameters without a module of
their own.  ``layer{k}.{b}`` is ``res{k+1}.{b}``, and a block's ``bn{j}`` is the norm of its ``conv{j}``;
torchvision's ResNets have the names of the plain backbone.  A table holds one entry for all blocks of a
stage, whose number it writes as ``*``, so that it serves ResNets of every depth.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

BACKBONE = "backbone.bottom_up."
"""Prefix of the backbone's names in a detector of detectron2 with FPN."""
CLASSIFIER = "backbone."
"""Prefix of the backbone's names in our ImageNet classifiers."""
STEM = "stem.conv1.weight"
"""A name that every backbone of ours has."""
COUNTER = "num_batches_tracked"
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var", COUNTER)

FLATTENED = "binary.positions.table"
TABLE = re.compile(r".*\.positions\.rel_(height|width)")
"""Our name of a decomposed position table."""
DERIVED = "binary.positions.index"
"""A buffer of theirs that follows from the size of ``FLATTENED``; we have no such tensor."""

FOREIGN = re.compile(r"(backbone\.(body\.)?)?layer[1-4]\.\d+\.")
"""The beginning of a block's names in torchvision and in the authors' release."""
CAFFE2 = re.compile(r"res[2-5]_\d+_branch(1|2[abc])_")
"""The beginning of a block's names in Caffe2's Detectron."""
TORCHVISION_BODY = "backbone.body."
"""Prefix of the backbone's names in torchvision's detectors."""
FC_IN_STEM = "stem.fc."
"""What detectron2's own converter makes of torchvision's ``fc``, in its R-50.pkl."""
BLOCK_INDEX = re.compile(r"(?<=layer[1-4]\.)\d{1,3}(?=\.)|(?<=res[2-5]\.)\d{1,3}(?=\.)")
ANY = "*"

LAYER = {
    "qkv_transform": "binary.qkv",
    "bn_qkv": "binary.qkv_norm",
    "bn_similarity": "binary.logit_norm",
    "bn_output": "binary.out_norm",
    "rel_height": "binary.positions.rel_height",
    "rel_width": "binary.positions.rel_width",
    "relative": FLATTENED,
    "flatten_index": DERIVED,
    "x_transform.0.conv_offset": "unary.conv.offset",
    "x_transform.0": "unary.conv",
    "x_transform.1": "unary.project",
    "bn_x": "unary.norm",
    "reasoning.1": "gate.fc1",
    "reasoning.2": "gate.norm1",
    "projection.0": "gate.fc2",
    "projection.1": "gate.norm2",
}

STEM_MODULES = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm"}
BLOCK = {
    "conv1": "conv1",
    "bn1": "conv1.norm",
    "conv2.conv_offset": "conv2.offset",
    "conv2": "conv2",
    "bn2": "conv2.norm",
    "conv3": "conv3",
    "bn3": "conv3.norm",
    "downsample.0": "shortcut",
    "downsample.1": "shortcut.norm",
    **{f"conv2.{theirs}": f"conv2.{ours}" for theirs, ours in LAYER.items()},
}

BOX_HEAD = {"shared_fcs.0": "fc1", "shared_fcs.1": "fc2"}
BOX_PREDICTOR = {"fc_cls": "cls_score", "fc_reg": "bbox_pred"}
MASK_HEAD = {
    **{f"convs.{i}.conv": f"mask_fcn{i + 1}" for i in range(4)},
    "upsample": "deconv",
    "conv_logits": "predictor",
}
MASK_CHAIN = {"conv_res.conv": "conv_res"}  # every mask head of the cascade but the first
SEMANTIC_HEAD = {
    **{f"lateral_convs.{i}.conv": f"lateral_convs.{i}" for i in range(5)},
    **{f"convs.{i}.conv": f"convs.{i}" for i in range(4)},
    "conv_embedding.conv": "embedding",
    "conv_logits": "predictor",
}
NECK = {
    **{f"neck.lateral_convs.{i}.conv": f"backbone.fpn_lateral{i + 2}" for i in range(4)},
    **{f"neck.fpn_convs.{i}.conv": f"backbone.fpn_output{i + 2}" for i in range(4)},
}
RPN = {
    "rpn_head.rpn_conv": "proposal_generator.rpn_head.conv",
    "rpn_head.rpn_cls": "proposal_generator.rpn_head.objectness_logits",
    "rpn_head.rpn_reg": "proposal_generator.rpn_head.anchor_deltas",
}

TORCHVISION_HEADS = {
    **{f"backbone.fpn.inner_blocks.{i}.0": f"backbone.fpn_lateral{i + 2}" for i in range(4)},
    **{f"backbone.fpn.layer_blocks.{i}.0": f"backbone.fpn_output{i + 2}" for i in range(4)},
    "rpn.head.conv.0.0": "proposal_generator.rpn_head.conv",
    "rpn.head.cls_logits": "proposal_generator.rpn_head.objectness_logits",
    "rpn.head.bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
    "roi_heads.box_head.fc6": "roi_heads.box_head.fc1",
    "roi_heads.box_head.fc7": "roi_heads.box_head.fc2",
    "roi_heads.box_predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
    **{f"roi_heads.mask_head.{i}.0": f"roi_heads.mask_head.mask_fcn{i + 1}" for i in range(4)},
    "roi_heads.mask_predictor.conv5_mask": "roi_heads.mask_head.deconv",
    "roi_heads.mask_predictor.mask_fcn_logits": "roi_heads.mask_head.predictor",
}
TORCHVISION_OLD = (  # patterns of the names in torchvision's published files -> its present ones
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(?=weight|bias)", r"\1.0."),
    (r"^rpn\.head\.conv\.(?=weight|bias)", "rpn.head.conv.0.0."),
    *((rf"^roi_heads\.mask_head\.mask_fcn{i + 1}\.", f"roi_heads.mask_head.{i}.0.") for i in range(4)),
)
CAFFE2_PARTS = {  # beginnings of detectron2's names for Caffe2's tensors -> the part of our detectors
    "stem.": BACKBONE,
    "res": BACKBONE,
    "fpn_": CLASSIFIER,
    "box_head.": "roi_heads.",
    "mask_head.": "roi_heads.",
    "cls_score.": "roi_heads.box_predictor.",
    "bbox_pred.": "roi_heads.box_predictor.",
}


class Names:
    """Translate between official names and ours by a table that is one to one."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        """Take the table, from their modules to ours."""
        self.modules = dict(modules)
        self._theirs = {ours: theirs for theirs, ours in self.modules.items()}

    def ours(self, key: str) -> str | None:
        """Return our name of the tensor that they call ``key``; None when the table does not know it."""
        return _translate(key, self.modules)

    def theirs(self, key: str) -> str | None:
        """Return their name of the tensor that we call ``key``; None when the table does not know it."""
        return _translate(key, self._theirs)


def _translate(key: str, modules: Mapping[str, str]) -> str | None:
    block = BLOCK_INDEX.search(key)
    name = _translate_pattern(BLOCK_INDEX.sub(ANY, key, count=1), modules)
    return name.replace(ANY, block[0]) if name and block else name


def _translate_pattern(key: str, modules: Mapping[str, str]) -> str | None:
    if key in modules:
        return modules[key]
    module, _, leaf = key.rpartition(".")
    return f"{modules[module]}.{leaf}" if module in modules and leaf in NORM_LEAVES else None


def strip_prefixes(
    state_dict: Mapping[str, Tensor], prefixes: Iterable[str] = ("module.", CLASSIFIER)
) -> dict[str, Tensor]:
    """Return ``state_dict`` without those of the ``prefixes`` that all of its names have."""
    stripped = dict(state_dict)
    for prefix in prefixes:
        if stripped and all(key.startswith(prefix) for key in stripped):
            stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def _under(theirs: str, ours: str, modules: Mapping[str, str]) -> dict[str, str]:
    return {theirs + key: ours + name for key, name in modules.items()}


def _roi_heads(stage: str) -> dict[str, str]:
    """Return the names of a box and a mask head; ``stage`` is "", or "0." and so on in a cascade."""
    return {
        **_under(f"roi_head.bbox_head.{stage}", f"roi_heads.box_head.{stage}", BOX_HEAD),
        **_under(f"roi_head.bbox_head.{stage}", f"roi_heads.box_predictor.{stage}", BOX_PREDICTOR),
        **_under(f"roi_head.mask_head.{stage}", f"roi_heads.mask_head.{stage}", MASK_HEAD),
    }


def _cascade_heads() -> dict[str, str]:
    heads = _under("roi_head.semantic_head.", "roi_heads.semantic_head.", SEMANTIC_HEAD)
    for stage in range(3):
        heads |= _roi_heads(f"{stage}.")
        if stage:
            heads |= _under(f"roi_head.mask_head.{stage}.", f"roi_heads.mask_head.{stage}.", MASK_CHAIN)
    return heads


def _backbone() -> dict[str, str]:
    modules = dict(STEM_MODULES)
    for stage in range(2, 6):
        modules |= _under(f"layer{stage - 1}.{ANY}.", f"res{stage}.{ANY}.", BLOCK)
    return modules


LAYER_NAMES = Names(LAYER)
BACKBONE_NAMES = Names(_backbone())
CLASSIFIER_NAMES = Names({**BACKBONE_NAMES.modules, "fc": "linear"})
_TRUNK = {**_under("backbone.", BACKBONE, BACKBONE_NAMES.modules), **NECK, **RPN}
MASK_RCNN_NAMES = Names({**_TRUNK, **_roi_heads("")})
HTC_NAMES = Names({**_TRUNK, **_cascade_heads()})
TORCHVISION_DETECTOR_NAMES = Names(
    {**_under(TORCHVISION_BODY, BACKBONE, BACKBONE_NAMES.modules), **TORCHVISION_HEADS}
)


def of_classifier(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a ResNet of torchvision's names without prefixes; mmpretrain has ``backbone.`` and ``head.fc``."""
    stripped = strip_prefixes(state_dict, ("module.",))
    return {re.sub(r"^(backbone\.|head\.(?=fc\.))", "", key): value for key, value in stripped.items()}
