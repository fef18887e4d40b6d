"""The detector that is exported, and the command line."""

import subprocess
from pathlib import Path

import pytest
import torch
from small_detector import small_detector
from warm_python import program

from lesa_d2.engine import load_config
from lesa_d2.errors import CheckpointError, ConfigError
from lesa_d2.tools.export import load_detector

ROOT = Path(__file__).resolve().parents[3]


def tiny(folder):
    from runs import tiny_options

    return tiny_options(folder)


def run_export(*arguments):
    script = str(ROOT / "projects/LESA/export.py")
    return subprocess.run([program(), script, *map(str, arguments)], capture_output=True, text=True)


def save_run(folder, **overrides):
    """A run's folder with a checkpoint, as training leaves it."""
    weights = small_detector("train.seed=3").state_dict()
    folder.mkdir()
    torch.save({"model": weights}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    return weights


def test_the_last_checkpoint_of_the_run(tmp_path):
    weights = save_run(tmp_path / "run")
    model = load_detector("quickstart_lesa", overrides=tiny(tmp_path / "run"))
    assert not model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_without_weights(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no checkpoint; give --weights FILE\.pth, or --untrained"):
        load_detector("quickstart_lesa", overrides=tiny(tmp_path))
    with pytest.raises(CheckpointError, match=r"gone\.pth"):
        load_detector("quickstart_lesa", "gone.pth", tiny(tmp_path))
    model = load_detector("quickstart_lesa", overrides=tiny(tmp_path), untrained=True)
    expected = small_detector(f"train.seed={load_config('quickstart_lesa').train.seed}").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_yacs(tmp_path):
    options = ["MODEL.LESA.BLOCKS=[1,1,1,1]", "MODEL.LESA.IMAGE_SIZE=[64,64]", f"OUTPUT_DIR={tmp_path}"]
    name = "yacs/mask_rcnn_lesa_r50"
    first = load_detector(name, overrides=options, untrained=True)
    torch.save({"model": first.state_dict()}, tmp_path / "x.pth")
    again = load_detector(name, str(tmp_path / "x.pth"), options)
    assert not again.training
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())
    with pytest.raises(CheckpointError, match=r"no weights .start_lesa_r50\.pth."):
        load_detector(name, overrides=options)


def test_command_line(tmp_path):
    options = [*tiny(tmp_path), "model.backbone.bottom_up.operator=conv"]  # is the fastest to trace
    common = ("--config-file", "quickstart_lesa", "--untrained", "--output", tmp_path / "out", *options)
    result = run_export("--format", "torch", "--image-size", 96, 160, *common)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "out/backbone.pt2") in result.stdout
    assert "96×160" in result.stdout
    traced = torch.export.load(tmp_path / "out/backbone.pt2").module()
    assert traced(torch.zeros(3, 3, 128, 96))["p4"].shape == (3, 64, 8, 6)


def test_command_line_errors_are_one_message(tmp_path):
    result = run_export(
        "--config-file",
        "imagenet_conv_r50",
        "--untrained",
        "--output",
        tmp_path,
        "model.backbone.blocks=[1,1,1,1]",
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: expected the config of a detector")
    assert "Traceback" not in result.stderr
