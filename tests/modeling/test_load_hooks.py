"""A classifier's file in detectron2's own checkpointer is converted or refused, never silently ignored."""

import copy

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.utils.file_io import PathManager
from torch import nn

from lesa_d2.checkpoint import classifier_to_detector, to_official
from lesa_d2.checkpoint.names import COUNTER
from lesa_d2.config import add_lesa_config
from lesa_d2.errors import CheckpointError
from lesa_d2.modeling import build_lesa_resnet

SMALL = dict(base_channels=8, stem_channels=8, blocks=[1, 1, 2, 1], image_size=64, num_heads=2)
STAGES = ["res2", "res3", "res4", "res5"]


def classifier(operator="lesa"):
    model = build_lesa_resnet(operator, num_classes=3, **SMALL)
    return {name: torch.randn(value.shape) for name, value in model.state_dict().items()}


def detector(operator="lesa"):
    """As a LazyConfig builds it, with detectron2's FPN."""
    fpn = FPN(build_lesa_resnet(operator, **SMALL), STAGES, 8)
    return nn.ModuleDict({"backbone": fpn, "head": nn.Linear(2, 2)})


def yacs_cfg(name, operator="lesa"):
    cfg = get_cfg()
    add_lesa_config(cfg)
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.RESNETS.OUT_FEATURES = STAGES
    cfg.MODEL.FPN.IN_FEATURES = STAGES
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.LESA.OPERATOR = operator
    cfg.MODEL.LESA.BLOCKS = [1, 1, 2, 1]
    cfg.MODEL.LESA.NUM_HEADS = 2
    cfg.MODEL.LESA.IMAGE_SIZE = [64, 64]
    return cfg


def yacs_detector(operator="lesa", name="build_lesa_resnet_fpn_backbone"):
    backbone = BACKBONE_REGISTRY.get(name)(yacs_cfg(name, operator), ShapeSpec(channels=3))
    return nn.ModuleDict({"backbone": backbone, "head": nn.Linear(2, 2)})


@pytest.fixture
def load(tmp_path):
    """Weights, model -> the model with them, loaded by detectron2."""

    def load(weights, model, query=""):
        torch.save({"model": weights}, tmp_path / "weights.pth")
        DetectionCheckpointer(model).load(str(tmp_path / "weights.pth") + query)
        return model.state_dict()

    return load


@pytest.mark.parametrize("query", ["", "?matching_heuristics=True"])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_classifier_is_refused_under_an_fpn_of_detectron2(load, prefix, query):
    weights = {prefix + name: value for name, value in classifier().items()}
    with pytest.raises(CheckpointError, match=r"of a classifier.*lesa convert --from imagenet-to-detector"):
        load(weights, detector(), query)


@pytest.mark.parametrize("operator", ["lesa", "conv"])
def test_a_classifier_is_converted_under_our_fpn(load, operator):
    weights = {f"backbone.{name}": value for name, value in classifier(operator).items()}
    loaded = load(weights, yacs_detector(operator))
    given = classifier_to_detector(weights).weights
    assert {name for name in given if name not in loaded} == {n for n in given if n.endswith(COUNTER)}
    for name, value in given.items():
        assert name.endswith(COUNTER) or torch.equal(
            loaded[name].float(), value.to(loaded[name].dtype).float()
        ), name


def test_files_of_torchvision_are_refused(load):
    with pytest.raises(CheckpointError, match=r"got 'conv1|got 'layer1\.0\.conv1\.weight'"):
        load(to_official(classifier("conv")), detector("conv"))


@pytest.mark.parametrize("make", [detector, yacs_detector])
def test_own_weights_and_other_parts_load(load, make):
    weights = {name: torch.randn(value.shape) for name, value in make().state_dict().items()}
    loaded = load(dict(weights), make())
    assert all(torch.equal(loaded[n].float(), v.to(loaded[n].dtype).float()) for n, v in weights.items())
    start = classifier_to_detector(classifier()).weights
    assert torch.equal(
        load(dict(start), make())["backbone.bottom_up.stem.conv1.weight"], next(iter(start.values()))
    )
    head = {"head.weight": torch.ones(2, 2)}
    assert load(dict(head), make())["head.weight"].sum() == 4


def test_copies_have_the_hooks_too(load):
    """Of a model, as for an average of its weights."""
    weights = {f"backbone.{name}": value for name, value in classifier().items()}
    with pytest.raises(CheckpointError, match="of a classifier"):
        load(weights, copy.deepcopy(detector()))
    assert "backbone.bottom_up.stem.conv1.weight" in load(weights, copy.deepcopy(yacs_detector()))


def test_retinanet_has_p3_to_p7():
    cfg = yacs_cfg("build_retinanet_lesa_resnet_fpn_backbone")
    cfg.MODEL.FPN.IN_FEATURES = STAGES[1:]
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3))
    maps = backbone.eval()(torch.zeros(1, 3, 128, 128))
    assert {name: tuple(x.shape[2:]) for name, x in maps.items()} == {
        f"p{level}": (128 >> level, 128 >> level) for level in range(3, 8)
    }


def test_addresses_are_registered_with_the_modules():
    assert PathManager.isfile("torchvision://resnet50")
    with pytest.raises(CheckpointError, match=r"no weights 'nothing\.pth'"):
        PathManager.get_local_path("lesa://nothing.pth")


@pytest.mark.parametrize("make", [detector, yacs_detector])
def test_convolutions_in_place_of_operators_are_refused(load, make):
    weights = {f"backbone.bottom_up.{name}": value for name, value in classifier("conv").items()}
    with pytest.raises(CheckpointError, match="lesa convert --from convolution"):
        load(weights, make())
    assert load(weights, make("conv"))
