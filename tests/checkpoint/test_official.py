import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lesa_d2.checkpoint import convert_backbone, convert_layer
from lesa_d2.layers import LESA
from lesa_d2.modeling import build_lesa_resnet

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def official():
    """Random values with the names and shapes of the released ImageNet checkpoint, without its classifier."""
    shapes = json.loads((GOLDEN / "manifest_imagenet_lesa_resnet50.json").read_text())
    return {key: torch.rand(shape) for key, shape in shapes.items() if not key.startswith("module.fc.")}


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
    with pytest.raises(ValueError, match=r"in res4\.1\.conv2: .*binary\.qkv\.weight"):
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


def test_a_missing_last_block_is_named(official):
    broken = {key: value for key, value in official.items() if not key.startswith("module.layer4.2.")}
    with pytest.raises(ValueError, match=r"missing \(our names\) .*res5\.2\.conv1\.weight"):
        convert_backbone(broken)


@pytest.mark.parametrize("surplus", ["module.conv1.bias", "module.layer1.1.downsample.0.weight"])
def test_keys_that_would_not_load_are_refused(official, surplus):
    with pytest.raises(ValueError, match=r"of no use \(our names\) \["):
        convert_backbone({**official, surplus: torch.zeros(1)})


def test_a_layer_with_both_kinds_of_tables_is_refused(official):
    extra = {"module.layer3.1.conv2.rel_height": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"in res4\.1\.conv2: .*of no use .*rel_height"):
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
