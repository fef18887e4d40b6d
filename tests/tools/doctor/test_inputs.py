"""What the doctor says of configs, data sets and checkpoints."""

import json

import pytest
import torch
from generated_data import shapes
from PIL import Image
from runs import ROOT

from lesa_d2 import __version__, model_zoo
from lesa_d2.checkpoint import to_official
from lesa_d2.tools.doctor import Inputs, inputs, main, report
from lesa_d2.tools.doctor.findings import checked

TINY = ["model.backbone.bottom_up.image_size=64", "model.backbone.bottom_up.blocks=[1,1,2,1]"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No weights, no data sets, and nothing of the environment's."""
    monkeypatch.setenv("LESA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setattr(report, "check_environment", list)


def findings(*arguments, **inputs):
    return {finding.name: finding for finding in Inputs(*arguments, **inputs).check()}


def make_dataset(folder, box=(2, 2, 8, 8)):
    """One picture for training and one for validation, with a box each."""
    for split in ("train2017", "val2017"):
        (folder / split).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / split / "a.jpg")
        entry = {"id": 1, "image_id": 1, "category_id": 7, "bbox": list(box), "area": 64, "iscrowd": 0}
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 32, "width": 32}],
            "annotations": [entry],
            "categories": [{"id": 7, "name": "cat"}],
        }
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return str(folder)


def save(weights, file):
    torch.save({"model": weights}, file)
    return str(file)


def test_all_in_one_go(tmp_path, capsys):
    folder = make_dataset(tmp_path / "mine")
    model = model_zoo.get("quickstart_lesa").state_dict()
    kept = {name: value for name, value in model.items() if not name.startswith("roi_heads.")}
    checkpoint = save(kept, tmp_path / "x.pth")
    arguments = ["--config-file", "quickstart_lesa", "--dataset", folder, "--checkpoint", checkpoint]
    assert main([*arguments, "train.max_iter=5"]) == 0
    out = capsys.readouterr().out
    for words in (
        "quickstart_lesa loads (LazyConfig)",
        "boxes without masks of 1 classes: cat",
        "is there: 1 classes, as the model",
        "LesaRCNN builds",
        "is a detector, or another whole model of detectron2",
        "can start the model: ",
    ):
        assert words in out
    assert "!!" not in out


def test_a_good_config_alone_generates_nothing(tmp_path):
    found = findings("quickstart_htc")
    assert not any(finding.fix for finding in found.values())
    assert "generated when training starts" in found["data of the config"].state
    assert not (tmp_path / "datasets").exists()


@pytest.mark.parametrize(
    ("arguments", "name", "words"),
    [
        (["--config-file", "quickstart_les"], "config", "did you mean 'quickstart_lesa'"),
        (["--config-file", "/"], "config", "config file '/' is a folder"),
        (["--config-file", "quickstart_lesa", "train.max_itr=1"], "config", "'train.max_iter'"),
        (
            ["--config-file", "quickstart_lesa", "train.max_iter=-1"],
            "config values",
            "train.max_iter must be",
        ),
        (["--config-file", "mask_rcnn_lesa_r50"], "data of the config", "DETECTRON2_DATASETS"),
        (["--config-file", "mask_rcnn_lesa_r50"], "start", "lesa convert"),
        (["--config-file", "quickstart_lesa", "train.init_checkpoint=gone.pth"], "start", "does not exist"),
        (["--config-file", "quickstart_lesa", "model.backbone.bottom_up.num_heads=7"], "model", "7"),
        (["--config-file", "imagenet_lesa_r50"], "data of the config", "no folder"),
        (["--config-file", "yacs/mask_rcnn_lesa_r50"], "start", "start_lesa_r50.pth"),
        (["--config-file", "yacs/mask_rcnn_lesa_r50"], "data of the config", "DETECTRON2_DATASETS"),
        (["--config-file", "yacs/mask_rcnn_lesa_r50", "MODEL.LESA.OPERATR=conv"], "config", "OPERATR"),
        (["--config-file", "yacs/mask_rcnn_lesa_r50", "MODEL.LESA.OPERATOR=nothing"], "model", "nothing"),
        (["train.max_iter=1"], "config", "--config-file"),
        (["--dataset", "gone"], "data set", "gone"),
        (["--checkpoint", "gone.pth"], "checkpoint", "does not exist"),
        (["--checkpoint", "lesa://mine.pth"], "checkpoint", "put the file there"),
    ],
)
def test_what_must_be_fixed(arguments, name, words, capsys):
    assert main(arguments) == 1
    out = capsys.readouterr().out
    report, _, fixes = out.partition("To fix:")
    assert any(line.startswith(f"!!  {name} ") for line in report.splitlines())
    assert "unexpectedly" not in out
    assert words in fixes


def test_every_mistake_of_a_data_set_is_listed(tmp_path):
    finding = findings(dataset=make_dataset(tmp_path / "bad", box=(2, 2, -8, 8)))["data set"]
    assert "2 problems in" in finding.fix
    found = findings("quickstart_lesa", dataset=str(tmp_path / "bad"))
    assert "2 problems in" in found["data set"].fix
    assert "data of the config" not in found  # it would say the same again


def test_pictures_of_classes(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "pictures" / split / name / "a.jpg")
    (tmp_path / "pictures/train/dog/notes.txt").touch()
    found = findings("imagenet_lesa_r50", str(tmp_path / "pictures"), overrides=["train.init_checkpoint=''"])
    assert not any(finding.fix for finding in found.values())
    assert found["data set"].state == (
        "2 classes of pictures: cat, dog; pictures: train 2 (left out: 1 with the suffix .txt), val 2"
    )
    assert found["start"].state == "from scratch"


def test_a_number_of_classes_that_the_data_does_not_have(tmp_path):
    found = findings(
        "quickstart_lesa", make_dataset(tmp_path / "mine"), "", ["model.roi_heads.num_classes=5"]
    )
    assert "(--dataset) has 1 (cat)" in found["data of the config"].fix


@pytest.mark.parametrize("config", ["quickstart_classifier", "quickstart_lesa"])
def test_a_complete_checkpoint(config, tmp_path):
    path = save(model_zoo.get(config).state_dict(), tmp_path / "x.pth")
    found = findings(config, checkpoint=path)
    assert not any(finding.fix for finding in found.values())
    assert found["checkpoint and model"].state.startswith("the model's own: 100.0% of the model")


def test_a_classifier_starts_a_detector(tmp_path):
    path = save(model_zoo.get("quickstart_classifier").state_dict(), tmp_path / "x.pth")
    found = findings("quickstart_lesa", checkpoint=path)
    assert found["checkpoint"].state.endswith("is an ImageNet classifier of lesa_d2")
    assert found["checkpoint and model"].state.startswith("can start the model: ")
    assert not found["checkpoint and model"].fix


def test_a_checkpoint_of_another_model(tmp_path):
    path = save(model_zoo.get("quickstart_lesa").state_dict(), tmp_path / "x.pth")
    finding = findings("quickstart_conv", checkpoint=path)["checkpoint and model"]
    assert finding.state.endswith("of the model fits")
    assert "cannot start this model" in finding.fix


def test_a_convolutional_detector_starts_one_of_ours(tmp_path):
    path = save(model_zoo.get("quickstart_conv").state_dict(), tmp_path / "x.pth")
    finding = findings("quickstart_lesa", checkpoint=path)["checkpoint and model"]
    assert finding.state.startswith("can start the model: ")
    assert not finding.fix


def test_weights_of_others_need_no_conversion(tmp_path):
    ours = model_zoo.get("imagenet_conv_r50").backbone.state_dict()
    path = save(to_official(ours), tmp_path / "x.pth")
    found = findings("imagenet_conv_r50", checkpoint=path)
    assert "of torchvision with bottleneck blocks" in found["checkpoint"].state
    assert found["checkpoint and model"].state.startswith("the model's own: 100.0% of the model")
    assert not found["checkpoint and model"].fix


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": torch.ones(1)}, "expected one of these"),
        (b"junk", "cannot be read"),
        ({}, "holds no weights"),
    ],
)
def test_what_is_no_checkpoint(content, words, tmp_path):
    file = tmp_path / "x.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    assert words in findings(checkpoint=str(file))["checkpoint"].fix


def test_a_failing_check_fails_alone(monkeypatch):
    def fails(self):
        raise RuntimeError("boom")

    monkeypatch.setattr(inputs.Inputs, "_check_values", fails)
    found = findings("quickstart_lesa")
    assert found["config values"].state == "fails unexpectedly: RuntimeError: boom"
    assert "report it" in found["config values"].fix
    assert not found["model"].fix


def test_an_empty_check_finds_nothing():
    assert checked("x", list) == []


def test_bug_report(capsys):
    assert main(["--config-file", "quickstart_lesa", "--bug-report", "train.max_iter=1"]) == 0
    out = capsys.readouterr().out
    for words in (
        f"lesa_d2     {__version__}",
        "doctor --config-file quickstart_lesa --bug-report train",
        "PyTorch",
        "numpy",
    ):
        assert words in out


def test_a_config_with_a_loader_of_its_own():
    options = [shapes("val", 2), "train.init_checkpoint=''", "model.roi_heads.num_classes=4"]
    found = findings(str(ROOT / "tests/engine/own_loader.py"), overrides=options)
    assert not any(finding.fix for finding in found.values()), found
    assert {"config", "data of the config", "model"} <= found.keys()
