"""Estimates of memory, against what is known and what is measured; advice."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lesa_d2.engine import load_config
from lesa_d2.tools.benchmark.budget import GIB, Memory, Setting, fit, largest_size, optimizer_share, switches
from lesa_d2.tools.benchmark.cases import Place
from lesa_d2.tools.benchmark.estimated import backbone_case, detector_case
from lesa_d2.tools.benchmark.memory import LiveMemory, without_numbers

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
KB = 1024


def test_live_storages_are_counted():
    with without_numbers():
        x = torch.empty(KB)
        with LiveMemory() as memory:
            memory.ignore(x)
            y = x + 1
            assert memory.live == 4 * KB
            view = y.view(2, -1)
            z = y * 2
            assert (memory.live, memory.peak) == (8 * KB, 8 * KB)
            del y
            assert memory.live == 8 * KB  # the view keeps it
            del view, z
            assert (memory.live, memory.peak) == (0, 8 * KB)


def test_what_autograd_keeps_is_counted():
    with without_numbers():
        layer = nn.Linear(KB, KB, bias=False)
        x = torch.empty(2, KB)
        with LiveMemory() as memory:
            for tensor in (x, layer.weight):
                memory.ignore(tensor)
            out = layer(x).relu().sum()
            assert memory.live == 2 * 4 * KB + 4  # the activation, which relu keeps, and the sum
            out.backward()
            assert memory.live == 4 * KB * KB + 4  # the gradient stays


@pytest.mark.parametrize(
    "case",
    [
        backbone_case("training", 384, Place(), operator="lesa"),
        backbone_case("forward", 512, Place(), operator="lesa", backend="reference"),
        detector_case(
            "training", 320, Place(), CONFIGS / "mask_rcnn_lesa_dconv_r50_20e.py", checkpoint_stages=["res4"]
        ),
    ],
    ids=lambda case: case.name,
)
def test_estimates_agree_with_measurements(case):
    measured = case.measure()
    assert case.estimate() == pytest.approx(measured, rel=0.25)


def setting(name, training=True, images=1, **changes):
    cfg = load_config(str(CONFIGS / f"{name}.py"), [f"{k}={v}" for k, v in changes.items()])
    return Setting(cfg, training, (1024, 1024), images)


@pytest.mark.parametrize(("name", "share"), [("mask_rcnn_lesa_r50", 1), ("quickstart_lesa", 2)])
def test_optimizers(name, share):
    assert optimizer_share(load_config(str(CONFIGS / f"{name}.py"))) == share
    plain = load_config(str(CONFIGS / "mask_rcnn_lesa_r50.py"), ["optimizer.momentum=0"])
    assert optimizer_share(plain) == 0


@pytest.mark.parametrize(
    ("name", "training", "size"),
    [
        ("mask_rcnn_lesa_r50", True, 1024),
        ("htc_lesa_dconv_wr50_20e_1280", True, 2048),
        ("htc_lesa_dconv_wr50_20e_1280", False, 1280),
        ("imagenet_lesa_r50", True, 224),
        ("quickstart_lesa", False, 160),
    ],
)
def test_sizes(name, training, size):
    assert largest_size(load_config(str(CONFIGS / f"{name}.py")), training) == (size, size)


def test_switches_in_order():
    start = setting("mask_rcnn_lesa_r50", images=4, **{"model.backbone.bottom_up.backend": "reference"})
    found = list(switches(start))
    key = "model.backbone.bottom_up"
    assert [switch.override for switch in found] == [
        f"{key}.backend=auto",
        "train.accumulate=2",
        "train.accumulate=4",
        f"{key}.checkpoint_stages=[res5]",
        f"{key}.checkpoint_stages=[res4,res5]",
        f"{key}.checkpoint_stages=[res3,res4,res5]",  # res2 is frozen
        "train.amp.enabled=True train.amp.dtype=bfloat16",
        "dataloader.train.mapper.augmentations.0.shape=[768,768]",
        "dataloader.train.mapper.augmentations.0.shape=[512,512]",
    ]
    last = found[-1].setting
    assert (last.accumulate, last.size, last.cfg.train.amp.enabled) == (4, (512, 512), True)
    assert OmegaConf.select(start.cfg, f"{key}.backend") == "reference"
    for switch in found:  # what is to be typed is accepted
        load_config(str(CONFIGS / "mask_rcnn_lesa_r50.py"), switch.override.split())


def test_switches_of_others():
    overrides = [switch.override for switch in switches(setting("imagenet_lesa_r50"))]
    assert overrides[0] == "model.backbone.checkpoint_stages=[res5]"
    for override in overrides:
        load_config(str(CONFIGS / "imagenet_lesa_r50.py"), override.split())
    htc = [switch.override for switch in switches(setting("htc_lesa_dconv_wr50_20e"))]
    assert htc[-1] == "dataloader.train.mapper.augmentations.0.ranges=[[256,512]]"
    for override in htc:
        load_config(str(CONFIGS / "htc_lesa_dconv_wr50_20e.py"), override.split())
    inference = [switch.override for switch in switches(setting("quickstart_lesa", training=False, images=2))]
    assert inference[0] == "dataloader.test.batch_size=1"
    assert all("checkpoint" not in override for override in inference)


def test_advice_stops_where_it_fits():
    tried = []

    def estimator(now):
        tried.append(now)
        return Memory(weights=GIB, step=(10 - 2 * len(tried)) * GIB)

    plan = fit(setting("mask_rcnn_lesa_r50", images=2), 5 * GIB, estimator)
    assert plan.fits
    assert [size for *_, size in plan.rows] == [9 * GIB, 7 * GIB, 5 * GIB]
    wanted = "train.accumulate=2 model.backbone.bottom_up.checkpoint_stages=[res5]"
    assert plan.verdict() == f"It fits with: `{wanted}`"
    assert "| as it is" in plan.text()


def test_advice_where_nothing_has_to_be_done_and_where_nothing_helps():
    assert fit(setting("mask_rcnn_lesa_r50"), GIB, lambda _: Memory(GIB)).verdict() == "It fits as it is."
    plan = fit(setting("mask_rcnn_lesa_r50"), GIB, lambda _: Memory(2 * GIB))
    assert not plan.fits
    assert "None of the switches" in plan.text()
