"""Hybrid Task Cascade with its semantic branch on a LESA backbone, from detectron2's cascade.

Every value that differs from detectron2's says why; "released" is the authors' configuration.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler

from lesa_d2.modeling import (
    CascadeMaskHead,
    FusedSemanticHead,
    HybridTaskCascadeHeads,
    InsideRPN,
    SemanticRCNN,
)

from .backbone import bottom_up, preprocessing

STAGE_WEIGHTS = [1.0, 0.5, 0.25]  # of the losses of boxes and masks

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
model._target_ = SemanticRCNN  # hands the stuff maps on to the RoI heads
model.init = "detectron2"  # "released": weights start as in the released code
model.backbone.bottom_up = bottom_up
model.update(preprocessing)
model.proposal_generator.update(
    _target_=InsideRPN,
    anchor_boundary_thresh=0,  # released: anchors that cross the border are left out (Mask R-CNN keeps them)
    smooth_l1_beta=1 / 9,  # released: SmoothL1 (Mask R-CNN: L1)
    post_nms_topk=[2000, 1000],  # released: 2000 proposals for training (Mask R-CNN: 1000)
)

heads = model.roi_heads
heads._target_ = HybridTaskCascadeHeads
for predictor, weight in zip(heads.box_predictors, STAGE_WEIGHTS, strict=True):
    predictor.loss_weight = weight
    predictor.smooth_l1_beta = 1.0  # released: SmoothL1 (detectron2: L1)
    predictor.test_score_thresh = 0.001  # released: keeps all that could count (detectron2: 0.05)
# released: deviations 0.033 and 0.067 in the last stage; detectron2 rounds their inverses to 30 and 15
heads.box_predictors[2].box2box_transform.weights = [1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067]
heads.pop("mask_head")
heads.mask_heads = [
    L(CascadeMaskHead)(
        input_shape=ShapeSpec(channels=256, width=14, height=14),
        follows=stage > 0,
        num_classes="${...num_classes}",
        conv_dims=[256, 256, 256, 256, 256],
        loss_weight=weight,
    )
    for stage, weight in enumerate(STAGE_WEIGHTS)
]
heads.semantic_head = L(FusedSemanticHead)(
    in_features=["p2", "p3", "p4", "p5", "p6"],
    fused_level="p3",
    in_channels=256,
    channels=256,
    num_classes=183,  # values of COCO's stuff maps, things among them
    stride=8,
    loss_weight=0.2,
)
heads.semantic_pooler = L(ROIPooler)(
    output_size=14, scales=[1 / 8], sampling_ratio=0, pooler_type="ROIAlignV2"
)
