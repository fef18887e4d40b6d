"""Bottleneck ResNets whose 3×3 convolutions of res4 and res5 are an operator of the slot.

detectron2's ResNet, stem and bottleneck are used as they are.  What is new is a bottleneck into which the operator is
injected, and :func:`make_lesa_stages`, which makes the stages that detectron2's ``ResNet(stem, stages)`` takes::

    L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
        stages=L(make_lesa_stages)(operator="lesa", blocks=[3, 4, 23, 3], image_size=1024, norm="EvalBN"),
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=2,
    )

:func:`build_lesa_resnet` is the short form of that; the yacs builders at the end call it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers import EvalBatchNorm2d, SlotOperator, find_operator
from ..layers.checkpointing import may_be_repeated, statistics_once
from ..layers.positions import Size, parse_size
from ..layers.registry import CONVOLUTION
from ..layers.unary import conv3x3
from .load_hooks import convert_classifier, refuse_other_layouts
from .norm import make_norm

RESNET50_BLOCKS = (3, 4, 6, 3)
STAGES = ("res2", "res3", "res4", "res5")
EXPANSION = 4  # a stage's output channels over its middle channels, at width 1

Norm = Callable[[int], nn.Module]
Slot = Callable[[int, int, int], nn.Module]
"""(in_channels, out_channels, stride) -> what stands between a bottleneck's two 1×1 convolutions."""


class SlotBottleneck(BottleneckBlock):
    """Hold ``slot`` where detectron2's bottleneck has its 3×3 convolution; None keeps that.

    With ``checkpointed`` it keeps only its input for the backward pass, which computes the rest again.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        slot: Slot | None = None,
        stride: int = 1,
        norm: Norm = nn.BatchNorm2d,
        num_groups: int = 1,
        checkpointed: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            bottleneck_channels=bottleneck_channels,
            stride=stride,
            num_groups=num_groups,
            norm=norm,
        )
        self.checkpointed = checkpointed
        if slot is not None:
            self.conv2 = slot(bottleneck_channels, bottleneck_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ⌈H/s⌉, ⌈W/s⌉)."""
        if self.checkpointed and self.training and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False, preserve_rng_state=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        if not may_be_repeated(self):
            return super().forward(x)
        with statistics_once(self):
            return super().forward(x)


@dataclass(frozen=True)
class SlotPlan:
    """Decide which module each bottleneck's slot gets.

    The operator stands in res4 and res5, except in the first block of res4, which stays a convolution.
    ``deformable`` makes every convolution from res3 on deformable, those inside operators included.
    """

    operator: type[SlotOperator] | None
    deformable: bool
    positions: str
    num_heads: int
    backend: str
    norm: Norm
    num_groups: int = 1

    def slot(self, stage: int, block: int, feat_size: Size) -> Slot | None:
        """Return the slot of block ``block`` of ``res{stage}``, which sees maps of ``feat_size``."""
        if self.operator is not None and (stage, block) > (4, 0):
            return self._operator_slot(self.operator, feat_size)
        return self._deformable_slot if self.deformable and stage >= 3 else None

    def _operator_slot(self, operator: type[SlotOperator], feat_size: Size) -> Slot:
        def slot(in_channels: int, out_channels: int, stride: int) -> nn.Module:
            return operator(
                in_channels,
                out_channels,
                stride,
                num_heads=self.num_heads,
                feat_size=feat_size,
                positions=self.positions,
                deformable=self.deformable and operator.has_convolution,
                backend=self.backend,
                norm=self.norm,
            )

        return slot

    def _deformable_slot(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        conv = conv3x3(in_channels, out_channels, stride=stride, groups=self.num_groups, deformable=True)
        conv.norm = self.norm(out_channels)
        return conv


def make_lesa_stages(
    operator: str | type[SlotOperator] = "lesa",
    *,
    image_size: int | tuple[int, int] = 224,
    blocks: Sequence[int] = RESNET50_BLOCKS,
    in_channels: int = 64,
    base_channels: int = 64,
    width_multiplier: int = 1,
    num_groups: int = 1,
    deformable: bool = False,
    norm: str = "BN",
    num_heads: int = 8,
    positions: str = "decomposed",
    backend: str = "auto",
    strides: Sequence[int] = (1, 2, 2, 2),
    stem_stride: int = 4,
    checkpoint_stages: Sequence[str] = (),
) -> list[list[SlotBottleneck]]:
    """Make res2 … res5 for detectron2's ResNet, with an operator in the slots of res4 and res5.

    ``in_channels`` are those of the stem's output, ``strides`` those of the first block of each stage, and
    ``stem_stride`` is that of the stem; the other arguments are those of :func:`build_lesa_resnet`.

    Returns:
        The blocks of each stage.

    Raises:
        ValueError: an argument outside the above.
    """
    if not isinstance(blocks, Sequence) or len(blocks) != len(STAGES) or not all(map(_is_positive, blocks)):
        raise ValueError(f"blocks must hold four positive ints, for res2..res5, got {blocks!r}")
    _check_positive(
        width_multiplier=width_multiplier,
        base_channels=base_channels,
        num_groups=num_groups,
        num_heads=num_heads,
    )
    if isinstance(checkpoint_stages, str) or not set(checkpoint_stages) <= set(STAGES):
        raise ValueError(f"checkpoint_stages must be some of {list(STAGES)}, got {checkpoint_stages!r}")
    norm_layer = make_norm(norm)
    plan = SlotPlan(
        operator=None if operator == CONVOLUTION else find_operator(operator),
        deformable=deformable,
        positions=positions,
        num_heads=num_heads,
        backend=backend,
        norm=norm_layer,
        num_groups=num_groups,
    )
    channels, size = in_channels, _shrink(parse_size(image_size), stem_stride)
    stages = []
    for stage, (number, stride) in enumerate(zip(blocks, strides, strict=True), start=2):
        width = base_channels * 2 ** (stage - 2)
        sizes = [size] + [_shrink(size, stride)] * (number - 1)
        stages.append(
            ResNet.make_stage(
                SlotBottleneck,
                number,
                in_channels=channels,
                out_channels=EXPANSION * width,
                bottleneck_channels=width * width_multiplier,
                stride_per_block=[stride] + [1] * (number - 1),
                slot_per_block=[plan.slot(stage, block, seen) for block, seen in enumerate(sizes)],
                norm=norm_layer,
                num_groups=num_groups,
                checkpointed=f"res{stage}" in checkpoint_stages,
            )
        )
        channels, size = EXPANSION * width, _shrink(size, stride)
    return stages


def build_lesa_resnet(
    operator: str | type[SlotOperator] = "lesa",
    width_multiplier: int = 1,
    deformable: bool = False,
    image_size: int | tuple[int, int] = 224,
    num_classes: int | None = None,
    stem_channels: int = 64,
    base_channels: int = 64,
    freeze_at: int = 0,
    norm: str = "BN",
    num_heads: int = 8,
    blocks: Sequence[int] = RESNET50_BLOCKS,
    positions: str | None = None,
    backend: str = "auto",
    out_features: Sequence[str] | None = None,
    in_channels: int = 3,
    res5_stride: int | None = None,
    checkpoint_stages: Sequence[str] = (),
    num_groups: int = 1,
) -> ResNet:
    """Build a detection backbone or a classifier: stem, :func:`make_lesa_stages`, and what they end in.

    Args:
        operator: "conv", the name of a registered operator, a subclass of SlotOperator, or its import path.
        width_multiplier: of the middle layers; 2 is WideResNet-50-2.
        deformable: every 3×3 from res3 on is deformable, also those inside the operators.
        image_size: side, or (H, W), of the images that the position tables are made for; others are served
            by interpolated tables.
        num_classes: a number gives the ImageNet layout (res5 at stride 1, flattened positions where the
            operator knows them) with a classifier whose output is ``linear``; None gives the detection
            layout (res5 at stride 2, decomposed positions).
        stem_channels: of the stem's output.
        base_channels: of res2's middle layer at width 1.
        freeze_at: 1 freezes the stem, 2 also res2, …; detectron2's meaning.
        norm: "BN", "SyncBN", "FrozenBN" or "EvalBN" (stored statistics, trainable weight and bias).
        num_heads: attention heads, and weight groups of the unary term.
        blocks: number of bottlenecks in res2..res5; (3, 4, 23, 3) is ResNet-101, (3, 8, 36, 3) ResNet-152.
        positions: "decomposed" or "flattened"; None chooses by layout.
        backend: of the attention.
        out_features: None is ``linear`` for a classifier, else res2..res5.
        in_channels: channels of the images.
        res5_stride: 1 or 2; None is that of the layout.
        checkpoint_stages: those of res2..res5 that save memory in training by computing their maps again in
            the backward pass; results are the same.
        num_groups: groups of the ordinary 3×3 convolutions, deformable ones included.  ResNeXt-50 32×4d has
            ``width_multiplier=2, num_groups=32``, ResNeXt-101 32×8d 4 and 32.

    Returns:
        A ResNet of detectron2. Its ``forward`` takes (N, in_channels, H, W), of any H×W, and returns the feature
        maps by name.

    Raises:
        ValueError: an argument outside the above.
    """
    is_classifier = num_classes is not None
    _check_positive(
        stem_channels=stem_channels, in_channels=in_channels, num_classes=num_classes if is_classifier else 1
    )
    if freeze_at not in range(len(STAGES) + 2):
        raise ValueError(f"freeze_at must be 0 (nothing) to 5 (everything), got {freeze_at!r}")
    if res5_stride not in (None, 1, 2):
        raise ValueError(f"res5_stride must be 1, 2 or None, got {res5_stride!r}")
    if out_features is None and not is_classifier:
        out_features = STAGES
    known = {"stem", *STAGES} | ({"linear"} if is_classifier else set())
    if out_features is not None and not (out_features and set(out_features) <= known):
        raise ValueError(f"out_features must be some of {sorted(known)}, got {out_features!r}")
    stem = BasicStem(in_channels, stem_channels, norm=make_norm(norm))
    stages = make_lesa_stages(
        operator,
        image_size=image_size,
        blocks=blocks,
        in_channels=stem_channels,
        base_channels=base_channels,
        width_multiplier=width_multiplier,
        num_groups=num_groups,
        deformable=deformable,
        norm=norm,
        num_heads=num_heads,
        positions=positions or default_positions(operator, is_classifier),
        backend=backend,
        strides=(1, 2, 2, res5_stride or (1 if is_classifier else 2)),
        stem_stride=stem.stride,
        checkpoint_stages=checkpoint_stages,
    )
    features = None if out_features is None else list(out_features)
    resnet = ResNet(stem, stages, num_classes=num_classes, out_features=features)
    if not is_classifier:
        resnet.register_load_state_dict_pre_hook(refuse_other_layouts)
    return freeze(resnet, freeze_at)


def freeze(resnet: ResNet, freeze_at: int) -> ResNet:
    """Stop training the stem (1), also res2 (2), …, in place, and return the ResNet.

    detectron2's ``ResNet.freeze`` also replaces norms by FrozenBN, whose weight and bias are no parameters.
    ``EvalBatchNorm2d`` uses stored statistics already, so it can stay and be counted as what it is.
    """
    if not any(isinstance(module, EvalBatchNorm2d) for module in resnet.modules()):
        return resnet.freeze(freeze_at)
    for stage in (resnet.stem, *resnet.stages)[:freeze_at]:
        stage.requires_grad_(False).train(stage.training)  # frozen norms leave training mode
    return resnet


def _is_positive(value: object) -> bool:
    return type(value) is int and value > 0


def _check_positive(**values: object) -> None:
    for name, value in values.items():
        if not _is_positive(value):
            raise ValueError(f"{name} must be a positive int, got {value!r}")


def default_positions(operator: str | type[SlotOperator], is_classifier: bool) -> str:
    """Return flattened for classifiers, decomposed for detectors, as far as the operator knows them."""
    wanted = "flattened" if is_classifier else "decomposed"
    known = (wanted,) if operator == CONVOLUTION else find_operator(operator).position_types
    return wanted if wanted in known else known[0]


def _shrink(size: Size, stride: int) -> Size:
    """Return the size of a map after a layer of this stride: rounded up, as padded convolutions do."""
    return -(-size[0] // stride), -(-size[1] // stride)


YACS_FIXED = {
    "DEPTH": 50,
    "NUM_GROUPS": 1,
    "WIDTH_PER_GROUP": 64,
    "STRIDE_IN_1X1": False,
    "RES5_DILATION": 1,
    "DEFORM_ON_PER_STAGE": [False, False, False, False],
}
"""detectron2's keys for other ResNets, which would otherwise be ignored in silence."""


@BACKBONE_REGISTRY.register()
def build_lesa_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build, for yacs, the backbone that ``cfg.MODEL.LESA`` describes (see :func:`lesa_d2.config.add_lesa_config`)."""
    resnets, lesa = cfg.MODEL.RESNETS, cfg.MODEL.LESA
    for key, fixed in YACS_FIXED.items():
        if resnets[key] != fixed:
            raise ValueError(
                f"LESA backbones need MODEL.RESNETS.{key} = {fixed}, got {resnets[key]}; "
                "what can be chosen is in MODEL.LESA"
            )
    if lesa.INIT != "detectron2" and cfg.MODEL.META_ARCHITECTURE != "LesaRCNN":
        raise ValueError(
            f"MODEL.LESA.INIT = {lesa.INIT} needs MODEL.META_ARCHITECTURE = LesaRCNN, which reads it, "
            f"got {cfg.MODEL.META_ARCHITECTURE}"
        )
    return build_lesa_resnet(
        operator=lesa.OPERATOR,
        width_multiplier=lesa.WIDTH_MULTIPLIER,
        deformable=lesa.DEFORMABLE,
        image_size=tuple(lesa.IMAGE_SIZE),
        stem_channels=resnets.STEM_OUT_CHANNELS,
        base_channels=resnets.RES2_OUT_CHANNELS // EXPANSION,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        norm=resnets.NORM,
        num_heads=lesa.NUM_HEADS,
        blocks=lesa.BLOCKS,
        backend=lesa.BACKEND,
        checkpoint_stages=lesa.CHECKPOINT_STAGES,
        out_features=resnets.OUT_FEATURES,
        in_channels=input_shape.channels,
    )


@BACKBONE_REGISTRY.register()
def build_lesa_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build, for yacs, :func:`build_lesa_resnet_backbone` with detectron2's FPN on top (p2..p6)."""
    return _fpn(cfg, build_lesa_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_lesa_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build, for yacs, :func:`build_lesa_resnet_backbone` with the FPN of RetinaNet and FCOS on top (p3..p7).

    ``MODEL.FPN.IN_FEATURES`` are then res3 to res5, as in detectron2's configs of these models.
    """
    bottom_up = build_lesa_resnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    return _fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS))


def _fpn(cfg: CfgNode, bottom_up: ResNet, top_block: nn.Module) -> FPN:
    fpn = FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    fpn.register_load_state_dict_pre_hook(convert_classifier)
    return fpn
