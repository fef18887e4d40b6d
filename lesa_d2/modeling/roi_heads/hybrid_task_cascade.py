"""Hybrid Task Cascade (arXiv 1901.07518): boxes and masks refined in turns, with a semantic branch.

detectron2's CascadeROIHeads supplies the stages' modules, poolers and the flow around them.  What HTC does
otherwise is here: every stage samples anew; a stage's masks learn on the boxes that it has just refined; mask
heads form a chain; a stage's proposals hold no ground truth of the stage before; scores average logits, masks
average probabilities; and nothing scales gradients.

R: regions of all images together; t: stage; S: features of the semantic branch; M: pooled maps for masks.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, ROIHeads, select_foreground_proposals
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...errors import WITHOUT_SEMANTICS, ConfigError
from .mask_head import CascadeMaskHead
from .semantic_head import FusedSemanticHead

SEMANTIC = "semantic"
"""Name of S among the feature maps."""

Features = dict[str, Tensor]
Losses = dict[str, Tensor]


class HybridTaskCascadeHeads(CascadeROIHeads):
    """RoI heads of HTC, with or without masks, with or without the semantic branch.

    The losses of stage t are weighted by the ``loss_weight`` of its box predictor and mask head.

    Args:
        proposal_matchers: one a stage; used for its boxes, and again for its masks.
        mask_heads: one a stage, all but the first with ``follows=True``; None for boxes alone.
        semantic_head: needs :class:`lesa_d2.modeling.SemanticRCNN` around the heads, for its targets.
        semantic_pooler: pools S, of one level, for masks; averaged for boxes.
        kwargs: of detectron2's ``CascadeROIHeads`` and ``ROIHeads``.
    """

    def __init__(
        self,
        *,
        proposal_matchers: Sequence[Matcher],
        mask_heads: Sequence[CascadeMaskHead] | None = None,
        semantic_head: FusedSemanticHead | None = None,
        semantic_pooler: ROIPooler | None = None,
        **kwargs: Any,
    ) -> None:
        if mask_heads is not None:
            kwargs["mask_head"] = nn.ModuleList(mask_heads)
        super().__init__(proposal_matchers=proposal_matchers, **kwargs)
        if mask_heads is not None and len(mask_heads) != self.num_cascade_stages:
            raise ValueError(
                f"expected {self.num_cascade_stages} mask heads, one a stage, got {len(mask_heads)}"
            )
        _check_together(semantic_head=semantic_head, semantic_pooler=semantic_pooler)
        _check_together(
            mask_heads=mask_heads,
            mask_pooler=kwargs.get("mask_pooler"),
            mask_in_features=kwargs.get("mask_in_features"),
        )
        self.semantic_head = semantic_head
        self.semantic_pooler = semantic_pooler
        # detectron2's base class is matching and sampling, nothing else.
        self._samplers = [
            ROIHeads(
                num_classes=self.num_classes,
                batch_size_per_image=self.batch_size_per_image,
                positive_fraction=self.positive_fraction,
                proposal_matcher=_LeavingOut(matcher),
                proposal_append_gt=False,  # done here, where it is known which boxes they are
            )
            for matcher in proposal_matchers
        ]

    def forward(
        self,
        images: ImageList,
        features: Features,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], Losses]:
        """Return, as ``ROIHeads``, losses in training, where images carry ``sem_seg``, else detections."""
        features, semantic_logits = self._with_semantics(features)
        if not self.training:
            return self.forward_with_given_boxes(features, self._forward_box(features, proposals)), {}
        assert targets is not None
        losses = {}
        if self.semantic_head is not None and semantic_logits is not None:
            losses["loss_sem_seg"] = self.semantic_head.loss(semantic_logits, _labels(images))
        for stage in range(self.num_cascade_stages):
            with get_event_storage().name_scope(f"stage{stage}"):
                proposals, stage_losses = self._train_stage(stage, features, proposals, targets)
            losses |= {f"{name}_stage{stage}": loss for name, loss in stage_losses.items()}
        return proposals, losses

    def forward_with_given_boxes(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """Return detections with the other outputs for their boxes, as test-time augmentation needs."""
        features, _ = self._with_semantics(features)
        return super().forward_with_given_boxes(features, instances)

    # ------------------------------------------------------------------------------------ training

    def _train_stage(
        self, stage: int, features: Features, proposals: list[Instances], targets: list[Instances]
    ) -> tuple[list[Instances], Losses]:
        """Return the losses of one stage, and the boxes to which it refines the proposals."""
        sampled = self._sample(stage, proposals, targets)
        predictions = self._run_stage(features, sampled, stage)
        losses = self.box_predictor[stage].losses(predictions, sampled)
        is_finite = predictions[1].isfinite().all()  # of background as well, of which the loss knows nothing
        losses["loss_box_reg"] = losses["loss_box_reg"].where(is_finite, torch.nan)
        refined = self._refine(stage, predictions, sampled)
        if self.mask_on:
            with get_event_storage().name_scope(f"stage{stage}/mask"):
                again = self._sample(stage, refined, targets)
            positives, _ = select_foreground_proposals(again, self.num_classes)
            losses["loss_mask"] = self._mask_loss(stage, features, positives)
        return refined, losses

    def _sample(self, stage: int, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Match proposals and ground truth by the stage's IoU, and sample them; ``is_gt`` marks the ground truth."""
        candidates = [
            _with_ground_truth(proposed, truth if self.proposal_append_gt else truth[:0])
            for proposed, truth in zip(proposals, targets, strict=True)
        ]
        sampler = self._samplers[stage]
        sampler.proposal_matcher.next = [candidate.get_fields().pop("is_out") for candidate in candidates]
        return sampler.label_and_sample_proposals(candidates, targets)

    @torch.no_grad()
    def _refine(
        self, stage: int, predictions: tuple[Tensor, Tensor], sampled: list[Instances]
    ) -> list[Instances]:
        """Return the boxes that a stage makes of its samples; ``is_out`` marks those that were ground truth.

        They are not sampled again.  To leave them out here, the host would have to wait for their number.
        """
        boxes = self.box_predictor[stage].predict_boxes(predictions, sampled)
        finite = [of_image.where(of_image.isfinite(), 0) for of_image in boxes]  # else the loss is not
        refined = self._create_proposals_from_boxes(finite, [samples.image_size for samples in sampled])
        for proposals, samples in zip(refined, sampled, strict=True):
            proposals.is_out = samples.is_gt
        return refined

    def _mask_loss(self, stage: int, features: Features, positives: list[Instances]) -> Tensor:
        """Compute the loss of the stage's mask head, whose gradient reaches all heads before it."""
        pooled = self._pool_masks(features, [samples.proposal_boxes for samples in positives])
        refined = None
        for head in self.mask_head[: stage + 1]:
            refined = head.refine(pooled, refined)
        head = self.mask_head[stage]
        return head.loss_weight * mask_rcnn_loss(head.predict(refined), positives, head.vis_period)

    # ----------------------------------------------------------------------------------- inference

    def _forward_box(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        """Return detections by the mean of the stages' logits and the last stage's boxes."""
        logits: list[Tensor] = []
        for stage, predictor in enumerate(self.box_predictor):
            scores, deltas = self._run_stage(features, proposals, stage)
            logits.append(scores.float())
            if stage + 1 < self.num_cascade_stages:
                boxes = predictor.predict_boxes((scores, deltas), proposals)
                sizes = [proposed.image_size for proposed in proposals]
                proposals = self._create_proposals_from_boxes(boxes, sizes)
        mean = torch.stack(logits).mean(0)
        detections, _ = self.box_predictor[-1].inference((mean, deltas), proposals)
        return detections

    def _forward_mask(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """Add ``pred_masks`` (R, 1, 2S, 2S): the mean of all heads' probabilities for the detected class."""
        if not self.mask_on:
            return instances
        pooled = self._pool_masks(features, [detections.pred_boxes for detections in instances])
        refined, masks = None, []
        for head in self.mask_head:
            refined = head.refine(pooled, refined)
            mask_rcnn_inference(head.predict(refined), instances)
            masks.append([detections.pred_masks for detections in instances])
        for detections, stages in zip(instances, zip(*masks, strict=True), strict=True):
            detections.pred_masks = torch.stack(stages).mean(0)
        return instances

    # ------------------------------------------------------------------------------------- for both

    def _with_semantics(self, features: Features) -> tuple[Features, Tensor | None]:
        """Return the feature maps with S among them, and the logits of the semantic branch."""
        if self.semantic_head is None or SEMANTIC in features:
            return features, None
        logits, semantic = self.semantic_head(features)
        return {**features, SEMANTIC: semantic}, logits

    def _run_stage(self, features: Features, proposals: list[Instances], stage: int) -> tuple[Tensor, Tensor]:
        """Compute logits (R, K + 1) and deltas (R, 4)."""
        boxes = [proposed.proposal_boxes for proposed in proposals]
        pooled = self._pool(self.box_pooler, self.box_in_features, features, boxes)
        return self.box_predictor[stage](self.box_head[stage](pooled))

    def _pool_masks(self, features: Features, boxes: list[Boxes]) -> Tensor:
        return self._pool(self.mask_pooler, self.mask_in_features, features, boxes)

    def _pool(self, pooler: ROIPooler, names: list[str], features: Features, boxes: list[Boxes]) -> Tensor:
        """Pool (R, C, S, S) from the pyramid, plus S pooled to the same size."""
        pooled = pooler([features[name] for name in names], boxes)
        if self.semantic_pooler is None:
            return pooled
        semantic = self.semantic_pooler([features[SEMANTIC]], boxes)
        return pooled + F.adaptive_avg_pool2d(semantic, pooled.shape[-2:])

    def _create_proposals_from_boxes(
        self, boxes: Sequence[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Clip boxes to proposals (R_i, 4) of each image; empty boxes stay, unlike in detectron2's cascade."""
        proposals = []
        for of_image, size in zip(boxes, image_sizes, strict=True):
            clipped = Boxes(of_image.detach())
            clipped.clip(size)
            proposals.append(Instances(size, proposal_boxes=clipped))
        return proposals


def _check_together(**arguments: object) -> None:
    missing = [name for name, value in arguments.items() if value is None]
    if missing and len(missing) < len(arguments):
        raise ValueError(f"{', '.join(arguments)} belong together: give all or none, got none for {missing}")


class _LeavingOut:
    """A matcher by which some regions are neither foreground nor background.

    Attributes:
        next: (R,) each, for the images to come: the regions to leave out.
    """

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self.next: list[Tensor] = []

    def __call__(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Match an image's regions by their IoU (ground truth, R): index and label (R,); label −1 is left out."""
        matches, labels = self.matcher(quality)
        return matches, labels.masked_fill(self.next.pop(0), -1)


def _with_ground_truth(proposals: Instances, truth: Instances) -> Instances:
    boxes = Boxes.cat([proposals.proposal_boxes, truth.gt_boxes])
    is_gt = torch.arange(len(boxes), device=boxes.device) >= len(proposals)
    is_out = torch.zeros_like(is_gt)
    if proposals.has("is_out"):
        is_out[: len(proposals)] = proposals.is_out
    return Instances(proposals.image_size, proposal_boxes=boxes, is_gt=is_gt, is_out=is_out)


def _labels(images: ImageList) -> Tensor:
    sem_seg = getattr(images, "sem_seg", None)
    if sem_seg is None:
        raise ConfigError(
            "the semantic branch needs a label for every pixel in training: build the detector as "
            f"lesa_d2.modeling.SemanticRCNN instead of GeneralizedRCNN, or set {WITHOUT_SEMANTICS}"
        )
    return sem_seg
