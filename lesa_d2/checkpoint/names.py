"""Names in the authors' checkpoints and ours: one table a kind of model, read in both directions.

A table maps modules, or parameters without a module of their own.  `layer{k}.{b}` is `res{k+1}.{b}`, and a
block's `bn{j}` is the norm of its `conv{j}`; torchvision's ResNets have the names of the plain backbone.
"""

from collections.abc import Mapping

BACKBONE = "backbone.bottom_up."
"""What detectron2's detectors with FPN put before a backbone's names."""

BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}  # every released model is a ResNet-50 or a WideResNet-50-2
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

DERIVED = "binary.positions.index"
"""A buffer of theirs that follows from the size of ``binary.positions.table``; we have no such tensor."""

LAYER = {
    "qkv_transform": "binary.qkv",
    "bn_qkv": "binary.qkv_norm",
    "bn_similarity": "binary.logit_norm",
    "bn_output": "binary.out_norm",
    "rel_height": "binary.positions.rel_height",
    "rel_width": "binary.positions.rel_width",
    "relative": "binary.positions.table",
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

STEM = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm"}
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


class Names:
    """A table of official names and ours, one to one."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self.modules = dict(modules)
        self._theirs = {ours: theirs for theirs, ours in self.modules.items()}

    def ours(self, key: str) -> str | None:
        """Our name of the tensor they call ``key``; None when the table does not know it."""
        return _translate(key, self.modules)

    def theirs(self, key: str) -> str | None:
        """Their name of the tensor we call ``key``; None when the table does not know it."""
        return _translate(key, self._theirs)


def _translate(key: str, modules: Mapping[str, str]) -> str | None:
    if key in modules:
        return modules[key]
    module, _, leaf = key.rpartition(".")
    return f"{modules[module]}.{leaf}" if module in modules and leaf in NORM_LEAVES else None


def _under(theirs: str, ours: str, modules: Mapping[str, str]) -> dict[str, str]:
    return {theirs + key: ours + name for key, name in modules.items()}


def _roi_heads(stage: str) -> dict[str, str]:
    """Box and mask head of one ``stage``: "" for the only one, "0." … for those of a cascade."""
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
    modules = dict(STEM)
    for stage, number in BLOCKS.items():
        for block in range(number):
            modules |= _under(f"layer{stage - 1}.{block}.", f"res{stage}.{block}.", BLOCK)
    return modules


LAYER_NAMES = Names(LAYER)
BACKBONE_NAMES = Names(_backbone())
CLASSIFIER_NAMES = Names({**BACKBONE_NAMES.modules, "fc": "linear"})
_TRUNK = {**_under("backbone.", BACKBONE, BACKBONE_NAMES.modules), **NECK, **RPN}
MASK_RCNN_NAMES = Names({**_TRUNK, **_roi_heads("")})
HTC_NAMES = Names({**_TRUNK, **_cascade_heads()})
