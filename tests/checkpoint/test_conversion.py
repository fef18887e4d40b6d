import argparse
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.modeling.backbone import FPN
from torch import nn

from lesa_d2.checkpoint import (
    classifier_to_detector,
    convert_detector,
    convert_file,
    load_weights,
    to_official,
)
from lesa_d2.errors import CheckpointError, StorageError
from lesa_d2.modeling import build_lesa_resnet

SCRIPT = Path(__file__).resolve().parents[2] / "projects/LESA/convert_checkpoint.py"
SMALL = dict(base_channels=8, stem_channels=8, image_size=64, num_heads=2)


def read(file):
    return torch.load(file, weights_only=True)


def shrunk(state_dict):
    """The same names; heads have at most two elements an axis, for small files."""
    return {
        name: value[tuple(slice(2) for _ in value.shape)]
        if name.startswith(("neck.", "rpn_head.", "roi_head."))
        else value
        for name, value in state_dict.items()
    }


@pytest.fixture
def saved(tmp_path):
    """What to save -> the file that holds it."""

    def save(content, name="source.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def run(monkeypatch):
    """Arguments -> exit status of the script."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return stop.value.code

    return run


@pytest.fixture
def torchvision_state():
    """A small ResNet with the names of torchvision's."""
    torch.manual_seed(0)
    model = build_lesa_resnet("conv", num_classes=10, base_channels=8, stem_channels=8)
    return to_official(model.state_dict())


@pytest.fixture
def ours():
    torch.manual_seed(0)
    return build_lesa_resnet("lesa", num_classes=3, **SMALL).state_dict()


def test_torchvision_from_the_command_line(run, saved, tmp_path, torchvision_state, capsys):
    target = tmp_path / "result.pth"
    assert run("--from", "torchvision", saved(torchvision_state), target) == 0
    checkpoint = read(target)
    assert set(checkpoint) == {"model", "__author__", "matching_heuristics"}
    assert checkpoint["__author__"] == "lesa_d2"
    assert checkpoint["matching_heuristics"] is False
    assert len(checkpoint["model"]) == len(torchvision_state)
    name = "backbone.res4.5.conv2.norm.running_var"
    assert torch.equal(checkpoint["model"][name], torchvision_state["layer3.5.bn2.running_var"])
    assert torch.equal(checkpoint["model"]["backbone.linear.bias"], torchvision_state["fc.bias"])
    printed = capsys.readouterr().out
    assert "res4" in printed
    assert "classifier" in printed
    elements = sum(value.numel() for value in torchvision_state.values())
    assert f"{elements:,}" in printed
    assert str(target) in printed
    listing = (tmp_path / "result.txt").read_text()
    assert len(listing.splitlines()) == len(torchvision_state) + 2
    assert "layer3.5.bn2.running_var" in listing
    assert name in listing
    assert sorted(file.name for file in tmp_path.iterdir()) == ["result.pth", "result.txt", "source.pth"]


def test_results_load_into_our_models(saved, tmp_path):
    """A torchvision-like file -> our classifier -> a detector's start, each loaded into our model."""
    bottom_up = build_lesa_resnet("conv", num_classes=3, **SMALL)
    weights = {name: torch.rand(value.shape) for name, value in bottom_up.state_dict().items()}
    convert_file("torchvision", saved(to_official(weights)), tmp_path / "classifier.pth")
    convert_file("imagenet-to-detector", tmp_path / "classifier.pth", tmp_path / "start.pth")

    load_weights(nn.ModuleDict({"backbone": bottom_up}), tmp_path / "classifier.pth")
    assert torch.equal(bottom_up.linear.bias, weights["linear.bias"])

    fpn = FPN(build_lesa_resnet("conv", **SMALL), ["res5"], 8)
    report = load_weights(nn.ModuleDict({"backbone": fpn}), tmp_path / "start.pth", start=True)
    assert not report.unexpected
    assert torch.equal(fpn.bottom_up.stem.conv1.weight, weights["stem.conv1.weight"])


def test_official_classifier(saved, tmp_path, released):
    official = shrunk(released("imagenet_lesa_resnet50"))
    source = saved({"net": official, "epoch": 3, "acc": 79.5})
    conversion = convert_file("official-imagenet", source, tmp_path / "result.pth")
    result = read(tmp_path / "result.pth")["model"]
    name = "backbone.res4.1.conv2.binary.qkv.weight"
    theirs = official["module.layer3.1.conv2.qkv_transform.weight"]
    assert torch.equal(result[name], theirs[..., None])
    dropped = [row for row in conversion.rows if row.action == "dropped"]
    assert {row.source for row in dropped} == {key for key in official if key.endswith("flatten_index")}
    assert {row.target for row in conversion.rows if row.target} == set(result)
    line = next(line for line in conversion.summary().splitlines() if line.startswith("res5"))
    assert line.split()[-1] == "3"  # one index buffer an attention layer


@pytest.mark.parametrize("name", ["mask_rcnn_lesa_r50_dconv_20e", "htc_lesa_wrn50_dconv_20e_1280"])
def test_official_detectors(saved, tmp_path, released, name):
    official = shrunk(released(name))
    source = saved({"meta": {"epoch": 20, "CLASSES": ("person",)}, "state_dict": official, "optimizer": {}})
    conversion = convert_file("official-detector", source, tmp_path / "result.pth")
    result = read(tmp_path / "result.pth")["model"]
    expected = convert_detector(official)
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], expected[name]) for name in result)
    groups = [line[:16].strip() for line in conversion.summary().splitlines()[4:]]
    parts = ["stem", "res2", "res3", "res4", "res5", "fpn", "rpn", "box predictor", "box head", "mask head"]
    assert groups == parts + (["semantic head"] if "htc" in name else []) + ["all"]


def test_detector_start(saved, tmp_path, ours):
    source = saved({"model": {f"backbone.{name}": value for name, value in ours.items()}, "iteration": 7})
    conversion = convert_file("imagenet-to-detector", source, tmp_path / "result.pth")
    result = read(tmp_path / "result.pth")["model"]
    expected = classifier_to_detector(ours).weights
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], expected[name]) for name in result)
    # 6 + 2 layers have a table each, the classifier is two tensors; 8 norm vectors a layer are converted
    actions = [row.action for row in conversion.rows]
    assert actions.count("dropped") == 8 + 2
    assert actions.count("converted") == 8 * 8
    assert "first 2 of 3 logit terms" in (tmp_path / "result.txt").read_text()


def test_slices_are_saved_without_what_they_were_cut_from(saved, tmp_path, torchvision_state):
    torchvision_state["fc.weight"] = nn.Parameter(torch.rand(10, 256, 20)[:, :, 0])
    convert_file("torchvision", saved(torchvision_state), tmp_path / "result.pth")
    value = read(tmp_path / "result.pth")["model"]["backbone.linear.weight"]
    assert type(value) is torch.Tensor
    assert value.is_contiguous()
    assert value.untyped_storage().nbytes() == value.numel() * 4


def kinds(released, ours, torchvision_state):
    return {
        "official-imagenet": shrunk(released("imagenet_lesa_resnet50")),
        "official-detector": shrunk(released("mask_rcnn_lesa_r50_dconv_20e")),
        "torchvision": {
            name: value[:1] if value.dim() else value for name, value in torchvision_state.items()
        },
        "imagenet-to-detector": ours,
    }


def test_every_kind_is_recognised_as_another(run, saved, tmp_path, released, ours, torchvision_state, capsys):
    files = kinds(released, ours, torchvision_state)
    for is_kind, state_dict in files.items():
        source = saved(
            {"module." + name.removeprefix("module."): value for name, value in state_dict.items()}
        )
        for said in files.keys() - {is_kind}:
            assert run("--from", said, source, tmp_path / "result.pth") == 2
            message = capsys.readouterr().err
            assert message.startswith("error: ")
            assert f"use --from {is_kind}" in message
            assert not (tmp_path / "result.pth").exists()
    source = saved(classifier_to_detector(ours).weights)
    assert run("--from", "imagenet-to-detector", source, tmp_path / "result.pth") == 2
    assert "needs no conversion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no weights: .*, got nothing"),
        ({"model": {}}, "holds no weights: .*, got nothing"),
        ([torch.ones(1)], "holds no weights: .*, got an object of type list"),
        ({"conv1.weight": torch.ones(1), "epoch": 3}, "got 'epoch' of type int"),
        ({"net": {"a": 1}}, "got 'a' of type int"),
        ({3: torch.ones(1)}, "got 3 of type Tensor"),
        ({"transformer.weight": torch.ones(1)}, r"none of the known kinds.*it has transformer\.weight"),
    ],
)
def test_other_contents_are_refused(saved, tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message):
        convert_file("official-imagenet", saved(content), tmp_path / "result.pth")
    assert not (tmp_path / "result.pth").exists()


def test_a_truncated_detector_names_file_and_key(run, saved, tmp_path, released, capsys):
    official = shrunk(released("mask_rcnn_lesa_r50_dconv_20e"))
    del official["roi_head.mask_head.upsample.bias"]
    assert run("--from", "official-detector", saved(official), tmp_path / "result.pth") == 2
    message = capsys.readouterr().err
    assert "source.pth" in message
    assert "theirs: roi_head.mask_head.upsample.bias" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"cannot be read \(\w+\): expected a file of plain"),
        (b"<html>not found</html>", r"cannot be read \(\w+\): expected a file of plain"),
        (b"PK\x03\x04 cut", "is cut off: its end is missing"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, words):
    source = tmp_path / "source.pth"
    source.write_bytes(content)
    for unsafe in (False, True):
        with pytest.raises(CheckpointError, match=rf"source\.pth {words}"):
            convert_file("torchvision", source, tmp_path / "result.pth", unsafe=unsafe)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        convert_file("torchvision", tmp_path / "source.pth", tmp_path / "result.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        convert_file("torchvision", tmp_path, tmp_path / "result.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_only_when_told(run, tmp_path, torchvision_state, capsys, zipped):
    source, target = tmp_path / "source.pth", tmp_path / "result.pth"
    content = {"state_dict": torchvision_state, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    assert run("--from", "torchvision", source, target) == 2
    message = capsys.readouterr().err
    for words in ("--unsafe", "can run code", *(["argparse.Namespace"] if zipped else [])):
        assert words in message
    assert not target.exists()
    assert run("--from", "torchvision", source, target, "--unsafe") == 0
    assert read(target)["model"]


def test_nothing_is_replaced_unless_told(saved, tmp_path, torchvision_state):
    source, target = saved(torchvision_state), tmp_path / "result.pth"
    for existing in (target, target.with_suffix(".txt")):
        existing.write_text("mine")
        with pytest.raises(CheckpointError, match=f"{existing.name} exists.*--force"):
            convert_file("torchvision", source, target)
        assert existing.read_text() == "mine"
        convert_file("torchvision", source, target, force=True)
        assert read(target)["model"]
        assert "layer1" in target.with_suffix(".txt").read_text()
        target.unlink()
        target.with_suffix(".txt").unlink()


def test_the_source_is_never_replaced(saved, tmp_path, torchvision_state):
    source = saved(torchvision_state)
    before = source.read_bytes()
    (tmp_path / "link.pth").symlink_to(source)
    (tmp_path / "twin.txt").symlink_to(source)
    for target in (source, tmp_path / "link.pth", tmp_path / "twin.pth"):
        with pytest.raises(CheckpointError, match="would replace the source"):
            convert_file("torchvision", source, target, force=True)
    assert source.read_bytes() == before


def test_where_a_result_cannot_go(saved, tmp_path, torchvision_state):
    source = saved(torchvision_state)
    (tmp_path / "folder.pth").mkdir()
    for target, message in (
        ("nowhere/result.pth", "there is no folder"),
        ("folder.pth", "is a folder"),
        ("result.pkl", "name it .pth"),
        ("result.txt", "name it .pth"),
    ):
        with pytest.raises(CheckpointError, match=message):
            convert_file("torchvision", source, tmp_path / target, force=True)


def test_a_write_that_fails_leaves_nothing(saved, tmp_path, torchvision_state, monkeypatch):
    source, target = saved(torchvision_state), tmp_path / "result.pth"
    target.write_text("mine")

    def fail(content, file):
        Path(file).write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(StorageError, match=r"result\.pth cannot be written: no space left"):
        convert_file("torchvision", source, target, force=True)
    assert target.read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


def test_a_reader_of_the_old_file_keeps_it(saved, tmp_path, torchvision_state):
    """The result is moved into place, not written over what is there."""
    target, reader = tmp_path / "result.pth", tmp_path / "reader.pth"
    target.write_text("mine")
    reader.hardlink_to(target)
    convert_file("torchvision", saved(torchvision_state), target, force=True)
    assert reader.read_text() == "mine"
    assert read(target)["model"]


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("resnet101", "ResNet-101, blocks 3-4-23-3, width multiplier 1, groups 1"),
        ("wide_resnet101_2", "ResNet-101, blocks 3-4-23-3, width multiplier 2, groups 1"),
        ("resnext50_32x4d", "ResNet-50, blocks 3-4-6-3, width multiplier 2, groups 32"),
        ("resnext101_64x4d", "ResNet-101, blocks 3-4-23-3, width multiplier 4, groups 64"),
    ],
)
def test_resnets_of_any_depth_width_and_groups(saved, tmp_path, name, network):
    with torch.device("meta"):
        shapes = getattr(torchvision.models, name)().state_dict()
    theirs = {key: torch.rand(()).expand(value.shape) for key, value in shapes.items()}
    theirs["fc.weight"], theirs["fc.bias"] = torch.rand(2, 2048), torch.rand(2)
    torch.save(theirs, tmp_path / "source.pth")
    conversion = convert_file("torchvision", tmp_path / "source.pth", tmp_path / "result.pth")
    assert conversion.network == network
    assert conversion.summary().startswith(network)
    assert len(read(tmp_path / "result.pth")["model"]) == len(theirs)


def test_names_of_a_resnet_with_other_shapes_are_refused(saved, tmp_path):
    """What its first layers announce, the rest has to keep."""
    with torch.device("meta"):
        shapes = torchvision.models.resnext50_32x4d().state_dict()
    other = {key: torch.rand(()).expand(value.shape) for key, value in shapes.items()}
    other["layer2.1.conv2.weight"] = torch.rand(()).expand(256, 4, 3, 3)
    with pytest.raises(
        CheckpointError,
        match=r"not those of a ResNet of ours: res3\.1\.conv2\.weight \(256, 4, 3, 3\), expected",
    ):
        convert_file("torchvision", saved(other), tmp_path / "result.pth")
    assert not (tmp_path / "result.pth").exists()


@pytest.mark.parametrize("shape", [(), (0, 0, 3, 3), (3, 0, 1, 1)])
def test_first_layers_without_a_width_are_one_error(saved, tmp_path, torchvision_state, shape):
    for key in ("layer1.0.conv2.weight", "layer1.0.conv3.weight"):
        other = {**torchvision_state, key: torch.ones(shape)}
        with pytest.raises(CheckpointError, match=r"not (the shapes|those) of a ResNet of ours"):
            convert_file("torchvision", saved(other), tmp_path / "result.pth")


def test_a_tensor_of_another_shape_is_named(saved, tmp_path, released):
    official = released("imagenet_lesa_resnet50")
    official["module.layer3.2.conv2.bn_similarity.weight"] = torch.ones(7)
    with pytest.raises(
        CheckpointError, match=r"res4\.2\.conv2\.binary\.logit_norm\.weight \(7,\), expected \(24,\)"
    ):
        convert_file("official-imagenet", saved({"net": official}), tmp_path / "result.pth")


def test_resnets_without_bottlenecks_are_one_short_message(run, saved, tmp_path, capsys):
    other = {
        key: value[:1] if value.dim() else value
        for key, value in torchvision.models.resnet18().state_dict().items()
    }
    assert run("--from", "torchvision", saved(other), tmp_path / "result.pth") == 2
    error = capsys.readouterr().err
    assert "not like a ResNet, Wide ResNet or ResNeXt of torchvision with bottleneck blocks" in error
    assert len(error) < 600
