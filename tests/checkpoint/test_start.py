import pytest
import torch
from detectron2.modeling.backbone import FPN

from lesa_d2.checkpoint import classifier_to_detector
from lesa_d2.errors import CheckpointError
from lesa_d2.modeling import build_lesa_resnet

SMALL = dict(base_channels=8, stem_channels=8, blocks=[1, 1, 2, 1], image_size=64, num_heads=2)
HEADS = SMALL["num_heads"]


def classifier(operator="lesa", **options):
    """A small classifier's state dict in which no two elements are equal."""
    model = build_lesa_resnet(operator, num_classes=3, **{**SMALL, **options})
    state_dict = model.state_dict()
    return {
        name: torch.randperm(value.numel()).view(value.shape).to(value.dtype)
        if value.dim()
        else torch.tensor(7)
        for name, value in state_dict.items()
    }


def detector(operator="lesa", **options):
    """The backbone with FPN that a detector has, under the name it has there."""
    bottom_up = build_lesa_resnet(operator, **{**SMALL, **options})
    return torch.nn.ModuleDict({"backbone": FPN(bottom_up, ["res2", "res3", "res4", "res5"], 8)})


def bottom_up_names(model):
    return {name for name in model.state_dict() if name.startswith("backbone.bottom_up.")}


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("operator", ["lesa", "static_lesa", "self_attention"])
def test_flattened_attention_becomes_decomposed(operator, prefix):
    bare = classifier(operator)
    start = classifier_to_detector({prefix + name: value for name, value in bare.items()})
    model = detector(operator)
    incompatible = model.load_state_dict(start.weights, strict=False)
    assert not incompatible.unexpected_keys
    missing = bottom_up_names(model) & set(incompatible.missing_keys)
    slots = ("res4.1", "res5.0")
    assert missing == {
        f"backbone.bottom_up.{slot}.conv2.binary.positions.rel_{axis}"
        for slot in slots
        for axis in ("height", "width")
    }
    for name, value in bare.items():
        if name.startswith("linear.") or name.endswith("positions.table"):
            assert prefix + name in start.dropped
            continue
        ours = start.weights["backbone.bottom_up." + name]
        if ".logit_norm." in name and value.dim():
            assert len(value) == 3 * HEADS
            assert ours.tolist() == value[: 2 * HEADS].tolist(), name
        elif ".out_norm." in name and value.dim():
            assert ours.tolist() == value[[2 * i for i in range(len(value) // 2)]].tolist(), name
        else:
            assert torch.equal(ours, value), name
    assert len(start.converted) == 2 * 2 * 4
    assert len(start.dropped) == 2 + len(slots)
    norm = "backbone.bottom_up.res4.1.conv2.binary.logit_norm.bias"
    assert start.converted[norm] == "channels of the first 2 of 3 logit terms"


@pytest.mark.parametrize(
    ("operator", "positions"),
    [("conv", None), ("attention_augmentation", None), ("lesa", "decomposed")],
)
def test_decomposed_layers_pass_unchanged(operator, positions):
    bare = classifier(operator, positions=positions)
    start = classifier_to_detector(bare, keep_positions=True)
    assert not start.converted
    assert set(start.dropped) == {"linear.weight", "linear.bias"}
    for name, value in bare.items():
        if name not in start.dropped:
            assert start.weights["backbone.bottom_up." + name] is value
    model = detector(operator)
    kept = {name: value for name, value in start.weights.items() if ".rel_" not in name}
    assert not model.load_state_dict(kept, strict=False).unexpected_keys


@pytest.mark.parametrize("operator", ["attention_augmentation", "lesa"])
def test_position_tables_start_fresh(operator):
    bare = classifier(operator, positions="decomposed")
    start, kept = classifier_to_detector(bare), classifier_to_detector(bare, keep_positions=True)
    tables = {name for name in bare if ".rel_" in name}
    assert len(tables) == 4
    assert start.dropped.keys() - kept.dropped.keys() == tables
    assert {start.dropped[name] for name in tables} == {"the position tables of a detector start fresh"}
    assert kept.weights.keys() - start.weights.keys() == {f"backbone.bottom_up.{name}" for name in tables}


def test_a_deformable_detector_lacks_the_offsets_too():
    start = classifier_to_detector(classifier())
    model = detector(deformable=True)
    missing = bottom_up_names(model) & set(model.load_state_dict(start.weights, strict=False).missing_keys)
    assert all(".positions.rel_" in name or ".offset." in name for name in missing)
    assert "backbone.bottom_up.res3.0.conv2.offset.weight" in missing


def test_anything_else_is_refused_by_name():
    weights = {f"backbone.bottom_up.{name}": value for name, value in classifier("conv").items()}
    with pytest.raises(CheckpointError, match=r"expected 'stem\.conv1\.weight'.*got backbone\.bottom_up\."):
        classifier_to_detector(weights)
    with pytest.raises(CheckpointError, match="got nothing"):
        classifier_to_detector({})


def test_what_is_not_of_the_backbone_is_dropped_by_name():
    weights = {"backbone." + name: value for name, value in classifier("conv").items()}
    start = classifier_to_detector({**weights, "pixel_mean": torch.zeros(3)})
    assert start.dropped["pixel_mean"] == "not part of the backbone"
    assert all(name.startswith("backbone.bottom_up.") for name in start.weights)


@pytest.mark.parametrize(("norm", "channels"), [("logit_norm", 4), ("out_norm", 5)])
def test_norms_of_other_channels_are_refused(norm, channels):
    bare = classifier()
    name = f"res4.1.conv2.binary.{norm}.weight"
    bare[name] = torch.ones(channels)
    with pytest.raises(CheckpointError, match=f"{name} has {channels} channels"):
        classifier_to_detector(bare)
