"""Test-time augmentation for configs of both kinds, and for every kind of detector."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from torch import nn

from lesa_d2.config import add_lesa_config
from lesa_d2.engine import load_config
from lesa_d2.errors import ConfigError
from lesa_d2.evaluation import DetectorWithAugmentation, TestTimeMapper, with_test_time_augmentation
from lesa_d2.evaluation.tta import scaled

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIDE = 64


def config(name):
    cfg = load_config(str(CONFIGS / f"{name}.py"))
    cfg.model.backbone.bottom_up.update(base_channels=8, num_heads=4, blocks=[1, 1, 2, 1], image_size=SIDE)
    cfg.dataloader.test.mapper.augmentations = [{"_target_": T.Resize, "shape": [SIDE, SIDE]}]
    return cfg


def detector(cfg):
    """A detector whose norms are not all ones and zeros, and whose scores are not all the same."""
    model = instantiate(cfg.model).eval()
    heads = model.roi_heads
    predictors = (
        heads.box_predictor if isinstance(heads.box_predictor, nn.ModuleList) else [heads.box_predictor]
    )
    for predictor in predictors:
        nn.init.normal_(predictor.cls_score.weight, std=0.1)
    return model


def picture(height=48, width=80):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return {"image": torch.tensor(image.transpose(2, 0, 1).copy()), "height": height, "width": width}


def test_versions_of_an_image():
    found = TestTimeMapper([T.Resize((32, 32)), T.Resize((64, 64))])(picture())
    assert [tuple(item["image"].shape[1:]) for item in found] == [(32, 32)] * 2 + [(64, 64)] * 2
    torch.testing.assert_close(found[0]["image"].flip(2), found[1]["image"])
    box = np.array([[8.0, 12, 40, 24]])
    assert found[0]["transforms"].apply_box(box).tolist() == [[3.2, 8, 16, 16]]
    assert found[1]["transforms"].apply_box(box).tolist() == [[16, 8, 28.8, 16]]
    assert len(TestTimeMapper([T.Resize((32, 32))], flip=False)(picture())) == 1


def test_an_image_of_a_single_pixel():
    """A flip of one has negative strides, though numpy calls it contiguous."""
    versions = TestTimeMapper([T.Resize((1, 1))])(picture())
    assert [tuple(version["image"].shape) for version in versions] == [(3, 1, 1)] * 2


def test_an_image_that_was_resized_before():
    """Boxes go back to the original image's pixels."""
    item = {**picture(32, 32), "height": 64, "width": 96}
    found = TestTimeMapper([T.Resize((16, 16))], flip=False)(item)[0]
    back = found["transforms"].inverse().apply_box(np.array([[0.0, 0, 16, 16]]))
    assert back.tolist() == [[0, 0, 96, 64]]


def test_scaling_of_resizings():
    assert scaled(T.Resize((100, 60)), 1.25).shape == (125, 75)
    assert scaled(T.Resize((100, 60)), 0.001).shape == (1, 1)
    edges = scaled(T.ResizeShortestEdge([40], 80, "choice"), 0.5)
    assert (list(edges.short_edge_length), edges.max_size) == ([20], 40)
    with pytest.raises(ConfigError, match=r"expected Resize or ResizeShortestEdge .* got RandomFlip"):
        scaled(T.RandomFlip(), 2)


@torch.no_grad()
@pytest.mark.parametrize("name", ["quickstart_lesa", "quickstart_cascade", "quickstart_htc"])
def test_one_plain_version_is_the_detector_itself(name):
    """Boxes go through NumPy and the original image's pixels, so not bit for bit."""
    cfg = config(name)
    cfg.train.tta.update(scales=[1.0], flip=False)
    model = detector(cfg)
    augmented, loader = with_test_time_augmentation(cfg, model)
    assert list(loader.mapper.augmentations) == []
    assert len(cfg.dataloader.test.mapper.augmentations) == 1
    item = picture()
    pixels = (
        T.Resize((SIDE, SIDE))
        .get_transform(np.zeros((48, 80, 3)))
        .apply_image(item["image"].permute(1, 2, 0).numpy())
    )
    plain = model([{**item, "image": torch.tensor(pixels.transpose(2, 0, 1).copy())}])[0]["instances"]
    found = augmented([item])[0]["instances"]
    assert len(plain) > 0
    assert found.pred_classes.tolist() == plain.pred_classes.tolist()
    torch.testing.assert_close(found.scores, plain.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, plain.pred_boxes.tensor, atol=1e-3, rtol=0)
    assert (found.pred_masks != plain.pred_masks).float().mean() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", ["quickstart_lesa", "quickstart_htc"])
def test_sizes_and_flips_are_merged(name):
    cfg = config(name)
    model = detector(cfg)
    augmented, _ = with_test_time_augmentation(cfg, model)
    assert len(augmented.tta_mapper.versions) == 6
    item = picture()
    found = augmented([item])[0]["instances"]
    flipped = augmented([{**item, "image": item["image"].flip(2)}])[0]["instances"]
    assert found.image_size == (48, 80)
    assert found.pred_masks.shape == (len(found), 48, 80)
    assert model.roi_heads.mask_on  # switched off in between
    # all versions of the flipped image are those of the image: the detections are flipped ones
    torch.testing.assert_close(found.scores, flipped.scores, atol=1e-4, rtol=0)
    boxes = flipped.pred_boxes.tensor
    mirrored = torch.stack([80 - boxes[:, 2], boxes[:, 1], 80 - boxes[:, 0], boxes[:, 3]], 1)
    torch.testing.assert_close(found.pred_boxes.tensor, mirrored, atol=1e-2, rtol=0)


@torch.no_grad()
def test_an_image_without_detections():
    cfg = config("quickstart_htc")
    for predictor in cfg.model.roi_heads.box_predictors:
        predictor.test_score_thresh = 1.0
    augmented, _ = with_test_time_augmentation(cfg, detector(cfg))
    assert len(augmented([picture()])[0]["instances"]) == 0


def test_a_test_loader_that_does_more_than_resize():
    cfg = config("quickstart_lesa")
    cfg.dataloader.test.mapper.augmentations = []
    with pytest.raises(ConfigError, match=r"exactly one augmentation .* got 0"):
        with_test_time_augmentation(cfg, nn.Identity())


def test_other_kinds_of_models():
    with pytest.raises(ConfigError, match="takes a two-stage detector of detectron2, got Identity"):
        DetectorWithAugmentation(nn.Identity(), TestTimeMapper([]))


@torch.no_grad()
def test_detectron2s_own_augmentation_works_with_yacs():
    cfg = get_cfg()
    add_lesa_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "yacs/mask_rcnn_lesa_r50.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 32
    cfg.MODEL.LESA.update({"IMAGE_SIZE": [64, 64], "NUM_HEADS": 4, "BLOCKS": [1, 1, 2, 1]})
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = (48, 64), 128
    found = GeneralizedRCNNWithTTA(cfg, build_model(cfg).eval())([picture()])[0]["instances"]
    assert len(found) > 0
    assert found.pred_masks.shape[1:] == (48, 80)
