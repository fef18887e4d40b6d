"""Tables of parameters and FLOPs, pinned models, and the command."""

from pathlib import Path

import pytest

from lesa_d2.cli import main
from lesa_d2.config import load_config
from lesa_d2.tools.benchmark.cost import cost_table, memory_table, section_costs
from lesa_d2.tools.benchmark.memory import MeasuredModel, Setting

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def costs(name, size, training=True):
    setting = Setting(MeasuredModel(load_config(name), training), (size, size))
    return {section[0]: section[1:] for section in section_costs(setting)}


@pytest.mark.parametrize(
    ("name", "gflops", "parameters"),
    [
        ("imagenet_conv_r50", 8.2, 25_557_032),
        ("imagenet_lesa_r50", 12.4, 23_777_512),
        ("imagenet_lesa_wr50", 33.1, 61_145_896),
    ],
)
def test_published_classifiers(name, gflops, parameters):
    """The figures of projects/LESA/README.md, in GFLOP."""
    count, flops = costs(name, 224, training=False)["backbone"]
    assert (count, round(flops / 1e9, 1)) == (parameters, gflops)


@pytest.mark.parametrize(
    ("name", "gflops", "parameters"),
    [
        ("mask_rcnn_conv_r50", 290, 44_396_336),
        ("mask_rcnn_sa_r50", 357, 36_651_216),
        ("mask_rcnn_lesa_r50", 387, 42_372_304),
    ],
)
def test_detectors(name, gflops, parameters):
    found = costs(name, 1024, training=False)
    backbone = found["backbone.bottom_up"][1] + found["rest of backbone"][1]
    assert round(backbone / 1e9) in (gflops, gflops + 1)
    assert sum(count for count, _ in found.values()) == parameters
    # RPN: 3×3 and two 1×1 on all levels; Mask R-CNN's heads by hand
    positions = sum((256 >> k) ** 2 for k in range(5))
    assert found["proposal_generator"][1] == pytest.approx(2 * positions * 256 * (9 * 256 + 3 + 12), rel=1e-6)
    boxes = 1000 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    masks = 100 * (4 * 196 * 9 * 256 * 256 + 196 * 256 * 256 * 4 + 784 * 256 * 80)
    assert found["roi_heads"][1] == pytest.approx(2 * (boxes + masks), rel=1e-6)


def test_training_sees_other_numbers_of_regions():
    boxes = 512 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    masks = 128 * (4 * 196 * 9 * 256 * 256 + 196 * 256 * 256 * 4 + 784 * 256 * 80)
    assert costs("mask_rcnn_conv_r50", 256)["roi_heads"][1] == 2 * (boxes + masks)


def test_tables():
    table = cost_table([("a", 1000, 2 * 10**9), ("b", 1, 10**9)])
    assert "| **all**   |        1,001 |              3.0 |" in table
    assert "a multiplication and an addition are two" in table
    assert "| **peak** |  0.75 |" in memory_table({"a": 2**29, "b": 2**28})


def test_command(capsys):
    assert (
        main(["benchmark", "cost", "--config-file", str(CONFIGS / "quickstart_lesa.py"), "--memory", "1"])
        == 0
    )
    out = capsys.readouterr().out
    assert "3,175,552" in out
    assert "1 image(s) of 160×160, training" in out
    assert "It fits as it is." in out


def test_command_for_inference_of_another_size(capsys):
    file = str(CONFIGS / "quickstart_htc.py")
    options = ["--mode", "inference", "--image-size", "96", "128", "--batch", "2"]
    assert main(["benchmark", "cost", "--config-file", file, *options]) == 0
    out = capsys.readouterr().out
    assert "2 image(s) of 96×128, inference" in out
    assert "optimizer" not in out


def test_sizes_are_padded_as_the_model_pads_them(capsys):
    file = str(CONFIGS / "quickstart_htc.py")
    options = ["--mode", "inference", "--image-size", "33", "47"]
    assert main(["benchmark", "cost", "--config-file", file, *options]) == 0
    assert "1 image(s) of 33×47, inference, padded to 64×64 as the model does" in capsys.readouterr().out


def test_switches_that_cannot_be_run_are_left_out(capsys):
    """At 32×32 the last maps are of one place, which batch norms cannot learn from in a single image."""
    file = str(CONFIGS / "quickstart_lesa.py")
    options = ["--memory", "0.01", "--image-size", "32", "32", "--batch", "2"]
    assert main(["benchmark", "cost", "--config-file", file, *options]) == 0
    out = capsys.readouterr().out
    assert "train.accumulate" not in out
    assert "mixed precision" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "0"], "--batch must be at least 1"),
        (["--image-size", "8", "99"], "at least 32"),
        (["--memory", "-1"], "finite, positive"),
        (["--memory", "inf"], "finite, positive"),
        (["--memory", "nan"], "finite, positive"),
        (["--image-size", "32", "32"], "1 image(s) of 32×32 at a time"),  # batch norms over one place
        (["train.accumulate=0"], "train.accumulate must be"),
        (["train.amp.enabled=True", "train.amp.dtype=half"], "train.amp.dtype must be"),
        (["model.backbone.bottom_up.opera=lesa"], "did you mean"),
    ],
)
def test_mistakes(options, words, capsys):
    assert main(["benchmark", "cost", "--config-file", str(CONFIGS / "quickstart_lesa.py"), *options]) == 2
    assert words in capsys.readouterr().err


def test_classifiers_that_mix_images(capsys):
    options = ["model.mixup=0.2", "model.cutmix=1.0", "--batch", "2"]
    assert (
        main(["benchmark", "cost", "--config-file", str(CONFIGS / "quickstart_classifier.py"), *options]) == 0
    )
    assert "| backbone" in capsys.readouterr().out
