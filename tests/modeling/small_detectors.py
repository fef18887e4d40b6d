"""The configs' detectors at the size of the reference vectors in tests/golden."""

from pathlib import Path

from detectron2.config import instantiate

from lesa_d2.engine import load_config

ROOT = Path(__file__).resolve().parents[2]
CHANNELS, FC, CONV = 32, 64, 32
CLASSES, STUFF_CLASSES = 5, 7
IMAGE_SIZE = 192


def small_config(name):
    """Config ``name`` with 8 base channels, 5 classes and few channels in neck and heads."""
    cfg = load_config(str(ROOT / f"configs/{name}.py"))
    model = cfg.model
    model.backbone.bottom_up.update(base_channels=8, stem_channels=8, image_size=IMAGE_SIZE)
    model.backbone.out_channels = CHANNELS
    model.proposal_generator.head.in_channels = CHANNELS
    heads = model.roi_heads
    heads.num_classes = CLASSES
    for head in heads.get("box_heads") or [heads.box_head]:
        head.input_shape.channels = CHANNELS
        head.fc_dims = [FC, FC]
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.input_shape.channels = FC
        predictor.test_score_thresh = 0.02
        predictor.test_topk_per_image = 20
    for head in heads.get("mask_heads") or [heads.mask_head]:
        head.input_shape.channels = CHANNELS
        head.conv_dims = [CONV] * 5
    if heads.get("semantic_head"):
        heads.semantic_head.update(in_channels=CHANNELS, channels=CHANNELS, num_classes=STUFF_CLASSES)
    return cfg


def small_detector(name):
    return instantiate(small_config(name).model)
