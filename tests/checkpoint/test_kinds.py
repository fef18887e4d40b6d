"""What a file is follows from its content, whatever its name."""

import pytest
import torch
import torchvision
from detectron2.modeling.backbone import FPN

from lesa_d2 import model_zoo
from lesa_d2.checkpoint import (
    classifier_to_detector,
    holds_trained_model,
    kind_of,
    kind_of_file,
    to_official,
)
from lesa_d2.errors import CheckpointError
from lesa_d2.modeling import build_lesa_resnet

SMALL = dict(base_channels=8, stem_channels=8, blocks=[1, 1, 2, 1], image_size=64, num_heads=2)


def under(prefix, state_dict):
    return {prefix + name: value for name, value in state_dict.items()}


@pytest.fixture(scope="module")
def classifier():
    return build_lesa_resnet(num_classes=3, **SMALL).state_dict()


@pytest.fixture(scope="module")
def detector():
    return model_zoo.get("quickstart_lesa", device="meta").state_dict()


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "module.backbone."])
def test_classifiers(classifier, prefix):
    assert kind_of(under(prefix, classifier)) == "classifier"
    outer = "module." if prefix.startswith("module.") else ""
    with_mean = {**under(prefix, classifier), outer + "pixel_mean": torch.zeros(3)}
    assert kind_of(with_mean) == "classifier"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_detectors_and_their_starts(classifier, detector, prefix):
    assert kind_of(under(prefix, detector)) == "detector"
    assert kind_of(under(prefix, classifier_to_detector(classifier).weights)) == "start"
    neck = FPN(build_lesa_resnet(**SMALL), ["res5"], 8).state_dict()
    assert kind_of(under(prefix + "backbone.", neck)) == "start"


@pytest.mark.parametrize("head", ["head.cls_score.weight", "proposal_generator.fcos_head.x.weight"])
@pytest.mark.parametrize("backbone", ["backbone.bottom_up.", "backbone.", "backbone.net."])
def test_whole_models_of_any_architecture(classifier, head, backbone):
    """RetinaNet, FCOS; with FPN, without, and ViTDet."""
    trained = {**under(backbone, classifier), head: torch.ones(1)}
    assert kind_of(trained) == "detector"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet50", "torchvision"),
        ("resnext101_32x8d", "torchvision"),
        ("resnet152", "torchvision"),
        ("resnet18", ""),  # it has no bottleneck
        ("vgg11", ""),
    ],
)
def test_torchvision(name, kind):
    with torch.device("meta"):
        weights = getattr(torchvision.models, name)().state_dict()
    assert kind_of(weights) == kind
    assert kind_of(under("module.backbone.", weights)) == kind


def test_the_release(released):
    assert kind_of(released("imagenet_lesa_resnet50")) == "official-imagenet"
    assert kind_of(released("mask_rcnn_lesa_r50_dconv_20e")) == "official-detector"
    assert kind_of(released("htc_lesa_wrn50_dconv_20e_1280")) == "official-detector"


def test_other_code_bases(classifier):
    with torch.device("meta"):
        detector = torchvision.models.detection.maskrcnn_resnet50_fpn(weights_backbone=None).state_dict()
        trunk = under("backbone.", torchvision.models.resnet50().state_dict())
    assert kind_of(detector) == "torchvision-detector"
    assert kind_of({**trunk, "head.fc.bias": torch.ones(1)}) == "torchvision"  # of mmpretrain
    assert kind_of({**trunk, "decode_head.conv_seg.bias": torch.ones(1)}) == ""
    assert kind_of({**classifier, "stem.fc.bias": torch.ones(1)}) == "detectron2-imagenet"
    caffe2 = {"res2_0_branch2a_w": torch.ones(1), "conv1_w": torch.ones(1)}
    assert kind_of(caffe2) == "caffe2-imagenet"
    assert kind_of({**caffe2, "conv_rpn_fpn2_w": torch.ones(1)}) == "caffe2-detector"


def test_other_models_are_of_no_kind(classifier):
    assert kind_of({"transformer.weight": torch.ones(1)}) == kind_of({}) == ""
    official = to_official(build_lesa_resnet("conv", num_classes=3, **SMALL).state_dict())
    assert kind_of(official) == "torchvision"


@pytest.mark.parametrize("name", ["start_x.pth", "imagenet_x.pth", "detector.pth"])
def test_the_name_of_a_file_decides_nothing(classifier, tmp_path, name):
    trained = {**under("backbone.bottom_up.", classifier), "head.weight": torch.ones(1)}
    torch.save({"model": trained, "iteration": 3}, tmp_path / name)
    assert kind_of_file(tmp_path / name) == "detector"
    assert holds_trained_model(tmp_path / name)
    for start in (classifier, classifier_to_detector(classifier).weights):
        torch.save(start, tmp_path / name)
        assert not holds_trained_model(tmp_path / name)
    torch.save({"model": {"unknown": torch.ones(1)}}, tmp_path / name)
    assert holds_trained_model(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        holds_trained_model(tmp_path / "x.pth")
