"""Memory at any size from small steps, against the step itself and against processes."""

import pytest

from lesa_d2.config import load_config
from lesa_d2.tools.benchmark import memory
from lesa_d2.tools.benchmark.estimates import Case, compare
from lesa_d2.tools.benchmark.memory import MeasuredModel, Setting, extrapolate


def setting(name, size, images=1, accumulate=1, training=True, overrides=()):
    return Setting(MeasuredModel(load_config(name, overrides), training), size, images, accumulate)


def test_extrapolation_by_hand():
    terms = [lambda n, p: 1, lambda n, p: n * p, lambda n, p: n, lambda n, p: n * p**2]

    def value(images, size):
        pixels = size[0] * size[1]
        return {"a": 5 + images * (3 * pixels + 2 + pixels**2 // 2**10), "b": 7}

    points = [(1, (128, 64)), (1, (256, 64)), (2, (128, 64)), (1, (512, 128))]
    target = (3, (1024, 512))
    found = extrapolate(
        points, [{**value(*point), "c": 1} for point in points[:3]] + [value(*points[3])], target, terms
    )
    assert found == value(*target)  # what is not in all of them is left out


@pytest.mark.parametrize(
    ("name", "images", "training", "overrides"),
    [
        ("quickstart_lesa", 1, True, []),
        ("quickstart_lesa", 3, True, []),
        ("quickstart_lesa", 1, False, []),
        ("quickstart_lesa", 1, True, ["model.backbone.bottom_up.backend=reference"]),
        ("quickstart_htc", 1, True, ["model.backbone.bottom_up.checkpoint_stages=[res4]"]),
    ],
)
def test_larger_steps_are_foreseen(name, images, training, overrides, monkeypatch):
    size = (256, 224)
    large = setting(name, size, images, training=training, overrides=overrides)
    monkeypatch.setattr(memory, "MEASURED_PIXELS", 10**9)
    measured, flops = large.step_memory(), sum(large.flops().values())
    monkeypatch.setattr(memory, "MEASURED_PIXELS", 160**2)
    found = setting(name, size, images, training=training, overrides=overrides)
    assert found.step_memory() == pytest.approx(measured, rel=0.1)
    assert sum(found.flops().values()) == pytest.approx(flops, rel=0.02)


def test_large_batches_of_small_images_are_foreseen(monkeypatch):
    large = setting("quickstart_classifier", (160, 160), 24)
    monkeypatch.setattr(memory, "MEASURED_PIXELS", 10**9)
    measured = large.step_memory()
    monkeypatch.setattr(memory, "MEASURED_PIXELS", 4 * 160**2)
    found = setting("quickstart_classifier", (160, 160), 24)
    assert found.step_memory() == pytest.approx(measured, rel=0.1)
    assert sorted(found.measured._steps) == [(2, (160, 160)), (4, (160, 160))]


def test_a_step_is_measured_once():
    found = setting("quickstart_lesa", (64, 64))
    assert found.measured.step(1, (64, 64), False) is found.measured.step(1, (64, 64), False)


@pytest.mark.parametrize(
    ("name", "overrides", "share"),
    [
        ("mask_rcnn_lesa_r50", ["model.backbone.bottom_up.base_channels=8"], 1),
        ("mask_rcnn_lesa_r50", ["model.backbone.bottom_up.base_channels=8", "optimizer.momentum=0"], 0),
        ("quickstart_lesa", [], 2),
    ],
)
def test_what_is_there_before_a_step(name, overrides, share):
    measured = MeasuredModel(load_config(name, [*overrides, "train.ema.enabled=True"]), True)
    parameters = sum(p.nbytes for p in measured.model.parameters())
    trained = sum(p.nbytes for p in measured.model.parameters() if p.requires_grad)
    kept = measured.kept(accumulate=2)
    assert kept.get("optimizer", 0) == pytest.approx(share * trained, abs=1000)
    assert kept["gradients kept over micro-batches"] == trained
    assert kept["their average (train.ema)"] == parameters
    assert "gradients kept over micro-batches" not in measured.kept(accumulate=1)
    inference = MeasuredModel(load_config(name, overrides), False)
    assert list(inference.kept(1)) == ["weights and buffers"]


@pytest.mark.parametrize(
    ("name", "size", "padded"),
    [
        ("quickstart_htc", (33, 47), (64, 64)),
        ("retinanet_lesa_r50", (800, 1333), (800, 1344)),
        ("quickstart_classifier", (33, 47), (33, 47)),
    ],
)
def test_sizes_are_padded_as_the_model_pads_them(name, size, padded):
    assert MeasuredModel(load_config(name), True).padded(size) == padded


@pytest.mark.parametrize(
    "case",
    [
        Case("quickstart_lesa", 448, images=2),
        Case("quickstart_lesa", 512, "forward", images=2),
        Case("quickstart_classifier", 160, images=16, overrides=["model.mixup=0.2"]),
    ],
    ids=lambda case: f"{case.name} {case.mode}",
)
def test_estimates_agree_with_processes(case):
    report = compare([case], "title")
    assert report.estimates[case.name, case.mode] == pytest.approx(
        report.measurements[0].extra_bytes, rel=0.25
    )
    assert f"| {case.name}" in report.table()
