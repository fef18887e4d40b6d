from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from detectron2.config import instantiate

from lesa_d2.checkpoint import (
    convert_backbone,
    convert_classifier,
    convert_detector,
    convert_layer,
    to_official,
)
from lesa_d2.checkpoint.names import BACKBONE_NAMES, HTC_NAMES, LAYER_NAMES, MASK_RCNN_NAMES
from lesa_d2.engine import load_config
from lesa_d2.errors import CheckpointError
from lesa_d2.layers import LESA
from lesa_d2.modeling import build_lesa_resnet

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
MASK_RCNN = "mask_rcnn_lesa_r50_dconv_20e"
HTC = "htc_lesa_wrn50_dconv_20e_1280"
WIDTHS = {"imagenet_lesa_resnet50": 1, "imagenet_lesa_wrn50": 2}


@pytest.fixture(scope="module")
def official(released):
    """The released ImageNet checkpoint, without its classifier."""
    shapes = released("imagenet_lesa_resnet50")
    return {key: value for key, value in shapes.items() if not key.startswith("module.fc.")}


def test_released_classifier_trunk_loads_strictly(official):
    model = build_lesa_resnet("lesa", num_classes=10)
    rest = {name: value for name, value in model.state_dict().items() if name.startswith("linear.")}
    model.load_state_dict({**convert_backbone(official), **rest}, strict=True)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_prefixes(official, prefix):
    renamed = {prefix + key.removeprefix("module."): value for key, value in official.items()}
    assert list(convert_backbone(renamed)) == list(convert_backbone(official))


def test_left_over_and_missing_keys_are_all_listed(official):
    broken = dict(official)
    broken["module.layer9.0.conv1.weight"] = torch.zeros(1)
    broken["module.surplus"] = torch.zeros(1)
    del broken["module.layer1.0.conv1.weight"], broken["module.bn1.running_mean"]
    with pytest.raises(ValueError, match="not a complete official backbone") as error:
        convert_backbone(broken)
    for name in ("layer9.0.conv1.weight", "surplus", "res2.0.conv1.weight", "stem.conv1.norm.running_mean"):
        assert name in str(error.value)


def test_a_missing_member_of_a_layer_names_the_layer(official):
    broken = dict(official)
    del broken["module.layer3.1.conv2.qkv_transform.weight"]
    with pytest.raises(ValueError, match=r"missing .*res4\.1\.conv2\.binary\.qkv\.weight"):
        convert_backbone(broken)


@pytest.mark.parametrize("positions", ["flattened", "decomposed"])
def test_layer_with_a_surplus_key(positions):
    members = (
        {"relative": (3, 3)} if positions == "flattened" else {"rel_height": (3, 1), "rel_width": (3, 1)}
    )
    with pytest.raises(ValueError, match=r"left over \['extra'\], missing .*unary\.conv\.weight"):
        convert_layer({"extra": torch.zeros(1), **{k: torch.zeros(v) for k, v in members.items()}})


def test_empty_state_dict():
    with pytest.raises(ValueError, match="missing"):
        convert_backbone({})


def test_conversion_leaves_its_input_alone(official):
    before = dict(official)
    convert_backbone(official)
    assert list(official) == list(before)
    assert all(official[key] is before[key] for key in before)


def test_a_layer_without_its_index_buffer_converts(official):
    prefix = "module.layer3.1.conv2."
    layer = {key.removeprefix(prefix): value for key, value in official.items() if key.startswith(prefix)}
    layer.pop("flatten_index", None)
    model = LESA(256, 256, feat_size=14, positions="flattened")
    model.load_state_dict(convert_layer(layer), strict=True)


@pytest.mark.parametrize("block", ["layer1.0", "layer3.4", "layer4.1"])
def test_a_missing_block_is_named(official, block):
    broken = {key: value for key, value in official.items() if not key.startswith(f"module.{block}.")}
    with pytest.raises(ValueError, match=rf"missing .*theirs: {block}\.conv1\.weight"):
        convert_backbone(broken)


def test_without_its_last_blocks_a_stage_is_a_shorter_one(official):
    """Nothing in the file tells the two apart; a model knows its depth."""
    short = {key: value for key, value in official.items() if not key.startswith("module.layer4.2.")}
    converted = convert_backbone(short)
    build_lesa_resnet("lesa", num_classes=1, blocks=(3, 4, 6, 2)).load_state_dict(converted, strict=False)
    with pytest.raises(RuntimeError, match=r"res5\.2\.conv1\.weight"):
        build_lesa_resnet("lesa", num_classes=1).load_state_dict(converted)


@pytest.mark.parametrize("surplus", ["module.conv1.bias", "module.layer1.1.downsample.0.weight"])
def test_keys_that_would_not_load_are_refused(official, surplus):
    with pytest.raises(ValueError, match=r"of no use \(our names\) \["):
        convert_backbone({**official, surplus: torch.zeros(1)})


def test_a_layer_with_both_kinds_of_tables_is_refused(official):
    extra = {"module.layer3.1.conv2.rel_height": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"of no use .*res4\.1\.conv2\.binary\.positions\.rel_height"):
        convert_backbone({**official, **extra})


def test_early_stages_of_the_released_backbone():
    """Stem, res2 and deformable res3 of a WideResNet-50 with 8 base channels, in eval mode.

    The LESA layers of later stages have reference vectors of their own, in tests/layers.
    """
    parameters = np.load(GOLDEN / "backbone_early_parameters.npz")
    maps = {name: torch.tensor(value) for name, value in np.load(GOLDEN / "backbone_early_maps.npz").items()}
    official = {key.removeprefix("param/"): torch.tensor(value) for key, value in parameters.items()}
    model = build_lesa_resnet(
        "lesa", 2, deformable=True, image_size=128, base_channels=8, out_features=["res2", "res3"]
    )
    model.load_state_dict(convert_backbone(official), strict=True)
    features = model.eval()(maps["input"])
    for name in ("res2", "res3"):
        error = (features[name] - maps[name]).norm() / maps[name].norm()
        assert error < 1e-4, name


@pytest.mark.parametrize("name", WIDTHS)
def test_released_classifiers_load_strictly_and_run(released, randomised, name):
    model = build_lesa_resnet("lesa", WIDTHS[name], num_classes=1000)
    model.load_state_dict(convert_classifier(randomised(released(name))), strict=True)
    with torch.no_grad():
        scores = model.eval()(torch.randn(1, 3, 224, 224))["linear"]
    assert scores.shape == (1, 1000)
    assert scores.isfinite().all()


@pytest.mark.parametrize("key", ["module.fc.bias", "module.fc.weight", "module.layer4.0.conv1.weight"])
def test_a_truncated_classifier_names_what_is_missing(released, key):
    broken = released("imagenet_lesa_resnet50")
    del broken[key]
    with pytest.raises(CheckpointError, match=f"missing .*theirs: {key.removeprefix('module.')}"):
        convert_classifier(broken)


def test_a_classifier_without_its_last_stage_is_no_classifier(released):
    names = released("imagenet_lesa_resnet50").items()
    with pytest.raises(CheckpointError, match=r"missing .*res5\.0\.conv1\.weight"):
        convert_classifier({key: value for key, value in names if ".layer4." not in key})


TORCHVISION = {
    "resnet50": dict(),
    "wide_resnet50_2": dict(width_multiplier=2),
    "resnext50_32x4d": dict(width_multiplier=2, num_groups=32),
    "resnet101": dict(blocks=(3, 4, 23, 3)),
    "resnext101_32x8d": dict(blocks=(3, 4, 23, 3), width_multiplier=4, num_groups=32),
    "wide_resnet101_2": dict(blocks=(3, 4, 23, 3), width_multiplier=2),
    "resnet152": dict(blocks=(3, 8, 36, 3)),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_gives_the_same_features(name):
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    for module in theirs.modules():  # statistics that matter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    converted = convert_classifier(theirs.state_dict())
    assert_same(to_official(converted), theirs.state_dict())
    torch.testing.assert_close(converted.pop("linear.weight"), theirs.fc.weight.detach())
    torch.testing.assert_close(converted.pop("linear.bias"), theirs.fc.bias.detach())
    ours = build_lesa_resnet("conv", **TORCHVISION[name]).eval()
    ours.load_state_dict(converted, strict=True)
    image = torch.randn(1, 3, 64, 64)
    trunk = torch.nn.Sequential(*list(theirs.children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(ours(image)["res5"], trunk(image))


def test_a_missing_block_of_a_deeper_resnet_is_named():
    with torch.device("meta"):
        deeper = torchvision.models.resnet152().state_dict()
    short = {key: value for key, value in deeper.items() if not key.startswith("layer3.30.")}
    with pytest.raises(CheckpointError, match=r"left over none, missing .*theirs: layer3\.30\.bn1\.bias"):
        convert_classifier(short)


@pytest.mark.parametrize("deformable", [False, True])
def test_lesa_of_any_depth_converts_there_and_back(deformable):
    ours = build_lesa_resnet(
        blocks=(1, 2, 12, 1), deformable=deformable, base_channels=8, image_size=64, num_heads=2
    ).state_dict()
    theirs = to_official(ours)
    assert "layer3.11.conv2.qkv_transform.weight" in theirs
    assert_same(convert_backbone(theirs), ours)


def test_files_older_than_the_counters_get_them():
    with torch.device("meta"):
        state = torchvision.models.resnet50().state_dict()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    converted = convert_classifier(old)
    assert converted.keys() == convert_classifier(state).keys()
    assert converted["res5.2.conv3.norm.num_batches_tracked"] == 0


def test_the_released_mask_rcnn_fits_our_config(released):
    config = load_config(str(ROOT / "configs/mask_rcnn_lesa_r50.py"))
    config.model.backbone.bottom_up.deformable = True
    with torch.device("meta"):
        model = instantiate(config.model)
    official = released(MASK_RCNN)
    model.load_state_dict(convert_detector(official), strict=True, assign=True)
    heads = model.roi_heads
    assert heads.mask_head.mask_fcn3.weight is not None
    for ours, theirs in (
        (model.backbone.fpn_lateral4.weight, "neck.lateral_convs.2.conv.weight"),
        (model.backbone.fpn_output2.bias, "neck.fpn_convs.0.conv.bias"),
        (model.proposal_generator.rpn_head.anchor_deltas.bias, "rpn_head.rpn_reg.bias"),
        (heads.box_head.fc2.bias, "roi_head.bbox_head.shared_fcs.1.bias"),
        (heads.box_predictor.bbox_pred.bias, "roi_head.bbox_head.fc_reg.bias"),
        (heads.mask_head.mask_fcn3.bias, "roi_head.mask_head.convs.2.conv.bias"),
        (heads.mask_head.predictor.bias, "roi_head.mask_head.conv_logits.bias"),
        (model.backbone.bottom_up.res4[1].conv2.gate.norm2.bias, "backbone.layer3.1.conv2.projection.1.bias"),
    ):
        assert torch.equal(ours, official[theirs]), theirs


def test_names_of_the_released_cascade(released):
    official = released(HTC)
    converted = convert_detector(official)
    assert len(converted) == len(official)
    for ours, theirs in (
        ("box_head.2.fc1", "bbox_head.2.shared_fcs.0"),
        ("box_predictor.1.cls_score", "bbox_head.1.fc_cls"),
        ("mask_head.0.mask_fcn4", "mask_head.0.convs.3.conv"),
        ("mask_head.1.conv_res", "mask_head.1.conv_res.conv"),
        ("mask_head.2.deconv", "mask_head.2.upsample"),
        ("semantic_head.lateral_convs.4", "semantic_head.lateral_convs.4.conv"),
        ("semantic_head.convs.0", "semantic_head.convs.0.conv"),
        ("semantic_head.embedding", "semantic_head.conv_embedding.conv"),
        ("semantic_head.predictor", "semantic_head.conv_logits"),
    ):
        for leaf in ("weight", "bias"):
            assert converted[f"roi_heads.{ours}.{leaf}"] is official[f"roi_head.{theirs}.{leaf}"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (MASK_RCNN, "roi_head.mask_head.conv_logits.weight"),
        (MASK_RCNN, "backbone.layer4.2.conv3.weight"),
        (HTC, "roi_head.mask_head.2.convs.1.conv.bias"),
        (HTC, "roi_head.semantic_head.conv_logits.weight"),
        (HTC, "rpn_head.rpn_cls.weight"),
    ],
)
def test_a_truncated_detector_names_what_is_missing(released, name, key):
    broken = released(name)
    del broken[key]
    with pytest.raises(CheckpointError) as error:
        convert_detector(broken)
    assert str(error.value).count("theirs: ") == 1
    assert f"theirs: {key})" in str(error.value)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (MASK_RCNN, "roi_head.mask_head.conv_res.conv.weight"),
        (MASK_RCNN, "neck.fpn_convs.4.conv.weight"),
        (HTC, "roi_head.mask_head.0.conv_res.conv.weight"),
        (HTC, "roi_head.bbox_head.3.fc_cls.weight"),
    ],
)
def test_a_detector_with_more_names_it(released, name, key):
    with pytest.raises(CheckpointError, match=rf"left over \['{key}'\], missing \(our names\) none"):
        convert_detector({**released(name), key: torch.zeros(1)})


def test_an_index_without_its_table_is_left_over(official):
    with pytest.raises(CheckpointError, match=r"left over \['layer1\.0\.conv2\.flatten_index'\]"):
        convert_backbone({**official, "module.layer1.0.conv2.flatten_index": torch.zeros(1)})


@pytest.mark.parametrize("names", [LAYER_NAMES, BACKBONE_NAMES, MASK_RCNN_NAMES, HTC_NAMES])
def test_tables_are_one_to_one(names):
    assert len(set(names.modules.values())) == len(names.modules)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.shape == theirs[name].shape, name
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("layer_*.npz")), ids=lambda file: file.stem)
def test_layers_convert_there_and_back(file):
    """Their index buffers are in the files, so that ours is compared with theirs."""
    data = np.load(file)
    names = [name for name in data.files if name.startswith("param/")]
    theirs = {name.removeprefix("param/"): torch.tensor(data[name]) for name in names}
    ours = convert_layer(theirs)
    assert_same(to_official(ours), theirs)
    assert_same(convert_layer(to_official(ours)), ours)


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("imagenet_lesa_resnet50", convert_classifier),
        ("imagenet_lesa_wrn50", convert_classifier),
        (MASK_RCNN, convert_detector),
        (HTC, convert_detector),
    ],
)
def test_released_models_convert_there_and_back(released, name, convert):
    theirs = {key.removeprefix("module."): value for key, value in released(name).items()}
    for key in [key for key in theirs if key.endswith("flatten_index")]:
        places = int(theirs[key].numel() ** 0.5)
        i, j = torch.meshgrid(torch.arange(places), torch.arange(places), indexing="ij")
        theirs[key] = (i - j + places - 1).flatten()
    ours = convert(theirs)
    assert_same(to_official(ours), theirs)
    assert_same(convert(to_official(ours)), ours)


def test_a_cut_backbone_converts_there_and_back():
    data = np.load(GOLDEN / "backbone_early_parameters.npz")
    theirs = {name.removeprefix("param/"): torch.tensor(data[name]) for name in data.files}
    assert_same(to_official(convert_backbone(theirs)), theirs)


def test_our_training_checkpoint_converts_back():
    with torch.device("meta"):
        ours = build_lesa_resnet("conv", num_classes=1000).state_dict()
        theirs = torchvision.models.resnet50().state_dict()
    back = to_official({f"backbone.{name}": value for name, value in ours.items()})
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in theirs.items()}


def test_what_the_release_has_no_name_for_is_listed():
    with torch.device("meta"):
        ours = build_lesa_resnet("lesa").state_dict()
    ours["res4.1.conv2.norm.weight"] = ours.pop("res4.1.conv2.gate.fc1.weight")
    ours["other"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="not a backbone of the released layout") as error:
        to_official(ours)
    for words in ("left over ['other']", "missing (our names) ['res4.1.conv2.gate.fc1.weight"):
        assert words in str(error.value)
    assert "of no use (our names) ['res4.1.conv2.norm.weight']" in str(error.value)
