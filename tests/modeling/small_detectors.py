"""The configs' detectors at the size of the reference vectors, and those vectors."""

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances

from lesa_d2.engine import load_config

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
CONFIGS = {"mask_rcnn": "mask_rcnn_lesa_dconv_r50_20e", "htc": "htc_lesa_dconv_wr50_20e_1280"}
CHANNELS, FC = 32, 64
CLASSES, STUFF_CLASSES = 5, 7
SIZE = (192, 192)


def small_config(name, **bottom_up):
    """Config ``name`` with 8 base channels, 5 classes and few channels in neck and heads."""
    cfg = load_config(str(ROOT / f"configs/{name}.py"))
    model = cfg.model
    model.backbone.bottom_up.update(base_channels=8, stem_channels=8, image_size=SIZE[0], **bottom_up)
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
        head.conv_dims = [CHANNELS] * 5
    if heads.get("semantic_head"):
        heads.semantic_head.update(in_channels=CHANNELS, channels=CHANNELS, num_classes=STUFF_CLASSES)
    return cfg


def small_detector(name, **bottom_up):
    return instantiate(small_config(name, **bottom_up).model)


def reference(kind):
    """The arrays of ``detector_KIND_*.npz`` as tensors, and the losses."""
    arrays = {}
    for file in sorted(GOLDEN.glob(f"detector_{kind}_*.npz")):
        arrays |= np.load(file)
    meta = json.loads(str(arrays.pop("meta")))
    return {key: torch.tensor(value) for key, value in arrays.items()}, meta["losses"]


def both(vectors, key):
    """What was stored image by image, as a batch of two."""
    return torch.stack([vectors[f"{key}/0"], vectors[f"{key}/1"]])


def unpacked(masks):
    """Masks (n, H, W) that were packed along the last axis."""
    return torch.tensor(np.unpackbits(masks.numpy(), axis=-1)).bool()[..., : SIZE[1]]


def proposals(vectors):
    found = [vectors[f"proposals{image}"] for image in range(2)]
    return [Instances(SIZE, proposal_boxes=Boxes(p[:, :4]), objectness_logits=p[:, 4]) for p in found]


def targets(vectors):
    return [
        Instances(
            SIZE,
            gt_boxes=Boxes(vectors[f"gt_boxes{image}"]),
            gt_classes=vectors[f"gt_classes{image}"],
            gt_masks=BitMasks(unpacked(vectors[f"gt_masks{image}"])),
        )
        for image in range(2)
    ]
