"""Weights at the start: the spreads of detectron2, and those of the released code, for configs of both kinds."""

import math

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from lesa_d2.config import load_any_config, load_config
from lesa_d2.errors import ConfigError
from lesa_d2.modeling import initialise
from lesa_d2.modeling.build import build_yacs_model, instantiate_model

# standard deviations at the sizes of the paper's Mask R-CNN on ResNet-50, computed by hand
DETECTRON2 = {
    "backbone.fpn_lateral2": 0.0625,
    "backbone.fpn_lateral3": 0.0442,
    "backbone.fpn_lateral4": 0.03125,
    "backbone.fpn_lateral5": 0.0221,
    "roi_heads.box_head.fc1": 0.00893,
    "roi_heads.box_head.fc2": 0.03125,
    "roi_heads.mask_head.predictor": 0.001,
}
RELEASED = {
    "backbone.fpn_lateral2": 0.0625,
    "backbone.fpn_lateral3": 0.0510,
    "backbone.fpn_lateral4": 0.0395,
    "backbone.fpn_lateral5": 0.0295,
    "roi_heads.box_head.fc1": 0.01214,
    "roi_heads.box_head.fc2": 0.03125,
    "roi_heads.mask_head.predictor": 0.1581,
}


def lazy(init):
    cfg = load_config(
        "mask_rcnn_lesa_r50", [f"model.init={init}", "model.backbone.bottom_up.blocks=[1,1,1,1]"]
    )
    return instantiate(cfg.model)


def yacs(init):
    overrides = [f"MODEL.LESA.INIT={init}", "MODEL.LESA.BLOCKS=[1,1,1,1]", "MODEL.DEVICE=cpu"]
    return build_yacs_model(load_any_config("yacs/mask_rcnn_lesa_r50", overrides))


def spreads(model, names):
    return {name: model.get_submodule(name).weight.detach().std().item() for name in names}


@pytest.mark.parametrize("build", [lazy, yacs])
@pytest.mark.parametrize(("init", "expected"), [("detectron2", DETECTRON2), ("released", RELEASED)])
def test_spreads_of_a_detector(build, init, expected):
    model = build(init)
    assert spreads(model, expected) == pytest.approx(expected, rel=0.02)
    for name in expected:
        conv = model.get_submodule(name)
        is_normal = name.endswith("predictor")
        assert (conv.weight.abs().max() > 1.8 * conv.weight.std()) == is_normal, name  # uniform: √3
        assert not conv.bias.any()


def test_nothing_else_starts_otherwise():
    torch.manual_seed(0)
    ours = lazy("detectron2")
    torch.manual_seed(0)
    released = lazy("released").state_dict()
    changed = {name for name, value in ours.state_dict().items() if not torch.equal(value, released[name])}
    assert changed == {f"{name}.weight" for name in DETECTRON2}


def test_spread_of_a_classifier():
    options = ["model.backbone.blocks=[1,1,1,1]"]
    linear = {
        init: instantiate(
            load_config("imagenet_lesa_r50", [*options, f"model.init={init}"]).model
        ).backbone.linear
        for init in ("detectron2", "released")
    }
    assert float(linear["detectron2"].weight.std()) == pytest.approx(0.01, rel=0.01)
    assert float(linear["released"].weight.std()) == pytest.approx(0.0128, rel=0.01)
    assert float(linear["released"].weight.abs().max()) == pytest.approx(2048**-0.5, rel=0.01)


def test_every_head_of_a_cascade():
    heads = instantiate(load_config("quickstart_htc", ["model.init=released"]).model).roi_heads
    classes = heads.mask_head[0].predictor.out_channels
    for mask_head, box_head in zip(heads.mask_head, heads.box_head, strict=True):
        assert float(mask_head.predictor.weight.std()) == pytest.approx(math.sqrt(2 / classes), rel=0.15)
        fc1 = box_head.fc1
        expected = math.sqrt(2 / (fc1.in_features + fc1.out_features))
        assert float(fc1.weight.std()) == pytest.approx(expected, rel=0.02)


def test_a_start_that_does_not_exist():
    with pytest.raises(ValueError, match="init must be one of detectron2, released, got 'paper'"):
        initialise(nn.Linear(1, 1), "paper")
    with pytest.raises(ConfigError, match="init must be one of"):
        instantiate_model(load_config("quickstart_lesa", ["model.init=paper"]).model)


def test_yacs_with_detectron2s_own_architecture_cannot_start_otherwise():
    overrides = ["MODEL.LESA.INIT=released", "MODEL.META_ARCHITECTURE=GeneralizedRCNN", "MODEL.DEVICE=cpu"]
    with pytest.raises(ConfigError, match=r"needs MODEL\.META_ARCHITECTURE = LesaRCNN, which reads it"):
        build_yacs_model(load_any_config("yacs/mask_rcnn_lesa_r50", overrides))
