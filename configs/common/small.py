"""What the quick start's classifier and detectors share: networks for two CPU cores, and their optimizer."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

from lesa_d2.data import SEM_SEG_CLASSES, SHAPE_CLASSES

IMAGE_SIZE = 160
CHANNELS, HIDDEN = 64, 256

# About a third of ResNet-50's width and few blocks; norms use batch statistics and nothing is frozen.
small_backbone = dict(base_channels=24, stem_channels=32, blocks=[2, 2, 3, 2], norm="BN", freeze_at=0)


def shrink(model):
    """Make a COCO detector of any kind here one for pictures of shapes, 12 to 120 pixels across."""
    model.backbone.bottom_up.update(image_size=IMAGE_SIZE, **small_backbone)
    model.backbone.out_channels = CHANNELS
    model.backbone.norm = "BN"
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn.head.in_channels = CHANNELS
    rpn.anchor_generator.sizes = [[16], [32], [64], [96], [128]]
    rpn.update(
        batch_size_per_image=64,
        pre_nms_topk=[300, 300],
        post_nms_topk=[150, 150],
        anchor_boundary_thresh=-1,  # most large anchors cross the border of a picture this small
    )
    heads.update(num_classes=len(SHAPE_CLASSES), batch_size_per_image=64)
    for pooler in (heads.box_pooler, heads.mask_pooler):
        pooler.sampling_ratio = 1  # RoIAlign's adaptive sampling takes a third of a step here
        pooler.canonical_box_size = 64  # instead of 224: boxes below 32 pixels from p2, up to 64 from p3, …
    for head in heads.get("box_heads") or [heads.box_head]:
        head.input_shape.channels = CHANNELS
        head.fc_dims = [HIDDEN, HIDDEN]
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.input_shape.channels = HIDDEN
        predictor.test_score_thresh = 0.05  # the same for every kind of detector
    for head in heads.get("mask_heads") or [heads.mask_head]:
        head.input_shape.channels = CHANNELS
        head.conv_dims = [48, 48, 48]
    if heads.get("semantic_head"):
        heads.semantic_head.update(in_channels=CHANNELS, channels=CHANNELS, num_classes=len(SEM_SEG_CLASSES))
        heads.semantic_pooler.sampling_ratio = 1
    return model


optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-3,
    betas=[0.9, 0.99],
    weight_decay=0.05,
    fused=True,
)
