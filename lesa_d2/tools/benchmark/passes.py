"""A model's forward pass, part by part, with a fixed number of regions: what its cost can be counted on.

Which anchors, proposals and levels of the pyramid are chosen depends on numbers, and tensors without
numbers have none.  So the parts are called one by one, with as many regions as the model takes at most,
evenly spread over the levels.  Everything else is the model's own code.

Shapes: N images of H×W pixels, R regions of all images together.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ...errors import ConfigError, LesaError
from ...modeling import HybridTaskCascadeHeads, ImageClassifier

Size = tuple[int, int]


@dataclass(frozen=True)
class Regions:
    """Of an image: ``boxes`` that the box heads see, and ``masks`` that the mask heads see."""

    boxes: int
    masks: int


def usual_regions(model: Any, training: bool) -> Regions | None:
    """As many as a detector takes at most; None for a classifier."""
    if not isinstance(model, GeneralizedRCNN):
        return None
    heads: Any = model.roi_heads
    if training:
        return Regions(
            heads.batch_size_per_image, round(heads.batch_size_per_image * heads.positive_fraction)
        )
    predictors = heads.box_predictor
    last: Any = predictors[-1] if isinstance(predictors, nn.ModuleList) else predictors
    rpn: Any = model.proposal_generator
    return Regions(rpn.post_nms_topk[False], last.test_topk_per_image)


def padded_size(model: Any, size: Size) -> Size:
    """(H, W) that a detector pads images of ``size`` to; other models take them as they are."""
    if not isinstance(model, GeneralizedRCNN):
        return size
    square = model.backbone.padding_constraints.get("square_size", 0)
    height, width = (square, square) if square else size
    step = max(model.backbone.size_divisibility, 1)
    return -(-height // step) * step, -(-width // step) * step


@contextlib.contextmanager
def explained_failures(size: Size, images: int) -> Iterator[None]:
    """ConfigError where a model cannot be run, such as batch norms in training on one pixel of one image."""
    try:
        yield
    except (ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        if isinstance(error, LesaError):
            raise
        raise ConfigError(
            f"the model cannot be run on {images} image(s) of {size[0]}×{size[1]} at a time: {error}; "
            "take a larger --image-size or --batch"
        ) from error


@dataclass
class Pass:
    """What the parts hand on to each other.

    Attributes:
        model: a classifier, a ResNet alone, or a two-stage detector with FPN; see :func:`parts`.
        images: (N, 3, H, W), normalised.
        regions: of an image; None for a classifier.
        bit_masks: whether the objects' masks are maps of the whole image, as in our configs.
        losses: one stand-in a loss, whose gradient is as large as the true one's.
    """

    model: Any
    images: Tensor
    regions: Regions | None = None
    bit_masks: bool = True
    losses: list[Tensor] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)

    @property
    def training(self) -> bool:
        return self.model.training

    @property
    def size(self) -> Size:
        height, width = self.images.shape[-2:]
        return height, width

    def learn(self, *outputs: Tensor) -> None:
        """Stand-ins for losses of these outputs."""
        if self.training:
            self.losses += [output.float().square().sum() for output in outputs]

    def boxes(self, number: int) -> list[Boxes]:
        """``number`` boxes of each image."""
        return [Boxes(self.images.new_zeros(number, 4)) for _ in self.images]


def parts(run: Pass) -> Iterator[tuple[str, str]]:
    """Run the model; yields the name of each part, and the modules it is made of, once it has been run.

    Raises:
        ConfigError: the model is of another kind.
    """
    if isinstance(run.model, ImageClassifier):
        run.learn(run.model.backbone(run.images)["linear"])
        yield "classifier", "backbone"
        return
    if isinstance(run.model, ResNet):
        run.learn(*run.model(run.images).values())
        yield "backbone", ""
        return
    check_is_known(run.model)
    fpn = run.model.backbone
    run.features = fpn.bottom_up(run.images)
    yield "backbone", "backbone.bottom_up"
    run.features = _pyramid(fpn, run.features)
    yield "FPN", "backbone"
    _region_proposals(run)
    yield "RPN", "proposal_generator"
    if run.training:
        _train_heads(run)
    else:
        _infer_heads(run)
    yield "RoI heads", "roi_heads"


def check_is_known(model: Any) -> None:
    """ConfigError unless :func:`parts` can run ``model``."""
    if isinstance(model, (ImageClassifier, ResNet)):
        return
    is_known = isinstance(model, GeneralizedRCNN) and isinstance(
        model.roi_heads, (StandardROIHeads, HybridTaskCascadeHeads)
    )
    if not is_known or not hasattr(model.backbone, "bottom_up"):
        raise ConfigError(
            "what is known is the cost of Mask R-CNN, cascade, Hybrid Task Cascade and classifiers, got "
            f"{type(model).__name__} with {type(getattr(model, 'roi_heads', None)).__name__}"
        )


def _pyramid(fpn: Any, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """detectron2's FPN on maps that its backbone has made already."""
    bottom_up, fpn.bottom_up = fpn.bottom_up, _Ready(features)
    try:
        return fpn(next(iter(features.values())))
    finally:
        fpn.bottom_up = bottom_up


class _Ready(nn.Module):
    def __init__(self, features: dict[str, Tensor]) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.features


def _region_proposals(run: Pass) -> None:
    """Logits and deltas of all anchors; the boxes they stand for."""
    rpn = run.model.proposal_generator
    features = [run.features[name] for name in rpn.in_features]
    anchors = rpn.anchor_generator(features)
    logits, deltas = rpn.rpn_head(features)
    flat = [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
    moved = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, -2) for level in deltas]
    run.learn(torch.cat(flat, 1), torch.cat(moved, 1))
    with torch.no_grad():
        rpn._decode_proposals(anchors, moved)


class EvenPooler(nn.Module):
    """detectron2's ROIPooler that spreads its boxes over the levels evenly, whatever their sizes."""

    def __init__(self, pooler: Any) -> None:
        super().__init__()
        self.level_poolers, self.output_size = pooler.level_poolers, pooler.output_size

    def forward(self, maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """Maps (N, C, H_i, W_i), boxes of each image -> (R, C, S, S)."""
        count = sum(map(len, boxes))
        rois = maps[0].new_zeros(count, 5)
        if len(self.level_poolers) == 1:
            return self.level_poolers[0](maps[0], rois)
        out = maps[0].new_zeros(count, maps[0].shape[1], *self.output_size)
        places = torch.arange(count, device=out.device).chunk(len(maps))
        for level, (pooler, here) in enumerate(zip(self.level_poolers, places, strict=False)):
            out.index_put_((here,), pooler(maps[level], rois[: len(here)]))
        return out


def spread_evenly(heads: nn.Module) -> None:
    """Replace the poolers of RoI heads, in place."""
    for name in ("box_pooler", "mask_pooler", "semantic_pooler"):
        if getattr(heads, name, None) is not None:
            setattr(heads, name, EvenPooler(getattr(heads, name)))


def _stages(heads: Any) -> int:
    return heads.num_cascade_stages if isinstance(heads, CascadeROIHeads) else 1


def _box_stage(run: Pass, boxes: list[Boxes], stage: int) -> tuple[Tensor, Tensor]:
    """Logits and deltas of one stage."""
    heads = run.model.roi_heads
    if isinstance(heads, CascadeROIHeads):
        proposals = [Instances(run.size, proposal_boxes=found) for found in boxes]
        is_htc = isinstance(heads, HybridTaskCascadeHeads)
        features = run.features if is_htc else [run.features[name] for name in heads.box_in_features]
        return heads._run_stage(features, proposals, stage)
    pooled = heads.box_pooler([run.features[name] for name in heads.box_in_features], boxes)
    return heads.box_predictor(heads.box_head(pooled))


def _pooled_masks(run: Pass, boxes: list[Boxes]) -> Tensor:
    heads = run.model.roi_heads
    if isinstance(heads, HybridTaskCascadeHeads):
        return heads._pool_masks(run.features, boxes)
    return heads.mask_pooler([run.features[name] for name in heads.mask_in_features], boxes)


def _mask_stage(run: Pass, pooled: Tensor, stage: int) -> Tensor:
    """Logits (R, K, 2S, 2S); HTC's heads run those before them."""
    head = run.model.roi_heads.mask_head
    if not isinstance(run.model.roi_heads, HybridTaskCascadeHeads):
        return head.layers(pooled)
    refined = None
    for earlier in head[: stage + 1]:
        refined = earlier.refine(pooled, refined)
    return head[stage].predict(refined)


def _semantics(run: Pass) -> None:
    heads = run.model.roi_heads
    if isinstance(heads, HybridTaskCascadeHeads):
        run.features, logits = heads._with_semantics(run.features)
        if logits is not None:
            run.learn(logits)


def _sample(run: Pass, number: int) -> list[Tensor]:
    """The masks that detectron2 gives to every sampled region, background too: (number, H, W) an image."""
    if not (run.bit_masks and run.model.roi_heads.mask_on):
        return []
    return [torch.empty(number, *run.size, dtype=torch.bool, device=run.images.device) for _ in run.images]


def _train_heads(run: Pass) -> None:
    assert run.regions is not None
    heads = run.model.roi_heads
    is_htc = isinstance(heads, HybridTaskCascadeHeads)
    _semantics(run)
    sampled = _sample(run, run.regions.boxes)
    for stage in range(_stages(heads)):
        if is_htc and stage:
            sampled = _sample(run, run.regions.boxes)
        run.learn(*_box_stage(run, run.boxes(run.regions.boxes), stage))
        if is_htc and heads.mask_on:
            again = _sample(run, run.regions.boxes)
            _train_masks(run, stage)
            del again
    if heads.mask_on and not is_htc:
        _train_masks(run, 0)
    del sampled


def _train_masks(run: Pass, stage: int) -> None:
    assert run.regions is not None
    positives = _sample(run, run.regions.masks)
    logits = _mask_stage(run, _pooled_masks(run, run.boxes(run.regions.masks)), stage)
    for masks in positives:
        masks.float()  # detectron2 crops the targets from these
    run.learn(logits[:, 0])


def _infer_heads(run: Pass) -> None:
    assert run.regions is not None
    heads = run.model.roi_heads
    _semantics(run)
    for stage in range(_stages(heads)):
        _box_stage(run, run.boxes(run.regions.boxes), stage)
    if not heads.mask_on:
        return
    pooled = _pooled_masks(run, run.boxes(run.regions.masks))
    if isinstance(heads, HybridTaskCascadeHeads):
        refined = None
        for head in heads.mask_head:
            refined = head.refine(pooled, refined)
            head.predict(refined).sigmoid()
    else:
        _mask_stage(run, pooled, 0).sigmoid()
    del pooled
    _sample(run, run.regions.masks)  # the masks at the images' size
