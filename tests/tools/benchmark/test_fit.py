"""Switches, and what to type for them."""

import pytest

from lesa_d2.config import load_config
from lesa_d2.errors import ConfigError
from lesa_d2.tools.benchmark.fit import GIB, fit, fit_text, largest_size, switches
from lesa_d2.tools.benchmark.memory import MeasuredModel, Setting


def setting(name, training=True, images=1, **changes):
    cfg = load_config(name, [f"{key}={value}" for key, value in changes.items()])
    return Setting(MeasuredModel(cfg, training), (1024, 1024), images)


@pytest.mark.parametrize(
    ("name", "training", "size"),
    [
        ("mask_rcnn_lesa_r50", True, (1024, 1024)),
        ("mask_rcnn_lesa_r50", False, (1024, 1024)),
        ("htc_lesa_dconv_wr50_20e_1280", True, (2048, 2048)),
        ("htc_lesa_dconv_wr50_20e_1280", False, (1280, 1280)),
        ("imagenet_lesa_r50", True, (224, 224)),
        ("imagenet_lesa_r50", False, (224, 224)),
        ("quickstart_lesa", False, (160, 160)),
        ("new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ", True, (1024, 1024)),
        ("new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ", False, (800, 1333)),
    ],
)
def test_sizes(name, training, size):
    assert largest_size(load_config(name), training) == size


def test_sizes_that_nothing_tells():
    cfg = load_config("mask_rcnn_lesa_r50", ["dataloader.train.mapper.augmentations=[]"])
    assert largest_size(cfg, True) == (1024, 1024)  # of the backbone's tables
    cfg.model.backbone.bottom_up.image_size = None
    with pytest.raises(ConfigError, match="--image-size"):
        largest_size(cfg, True)


def test_switches_in_order():
    start = setting("mask_rcnn_lesa_r50", images=4, **{"model.backbone.bottom_up.backend": "reference"})
    key = "model.backbone.bottom_up"
    found = list(switches(start))
    assert [override for _, override, _ in found] == [
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
    last = start
    for _, override, change in found:
        load_config("mask_rcnn_lesa_r50", override.split())  # what is to be typed is accepted
        last = change(last)
    assert (last.accumulate, last.size, last.measured.cfg.train.amp.enabled) == (4, (512, 512), True)
    assert last.measured.cfg.model.backbone.bottom_up.checkpoint_stages == ["res3", "res4", "res5"]
    assert last.measured.cfg.model.backbone.bottom_up.backend == "auto"
    assert start.measured.cfg.model.backbone.bottom_up.backend == "reference"


@pytest.mark.parametrize(
    ("name", "training", "images", "first", "last"),
    [
        (
            "imagenet_lesa_r50",
            True,
            1,
            "model.backbone.checkpoint_stages=[res5]",
            "dataloader.train.mapper.transform.transforms.0.size=[512,512]",
        ),
        (
            "htc_lesa_dconv_wr50_20e",
            True,
            1,
            "model.backbone.bottom_up.checkpoint_stages=[res5]",
            "dataloader.train.mapper.augmentations.0.ranges=[[256,512]]",
        ),
        (
            "quickstart_lesa",
            False,
            2,
            "dataloader.test.batch_size=1",
            "dataloader.train.mapper.augmentations.0.shape=[512,512]",
        ),
        (
            "new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ",  # without a backbone of ours
            True,
            2,
            "train.accumulate=2",
            "dataloader.train.mapper.augmentations.1.crop_size=[512,512]",
        ),
        (
            "new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ",
            False,
            1,
            "dataloader.test.mapper.augmentations.0.short_edge_length=[768] "
            "dataloader.test.mapper.augmentations.0.max_size=768",
            "dataloader.test.mapper.augmentations.0.short_edge_length=[512] "
            "dataloader.test.mapper.augmentations.0.max_size=512",
        ),
    ],
)
def test_switches_of_others(name, training, images, first, last):
    overrides = [override for _, override, _ in switches(setting(name, training, images))]
    assert (overrides[0], overrides[-1]) == (first, last)
    for override in overrides:
        load_config(name, override.split())


def test_advice_stops_where_it_fits():
    tried = []

    def memory(now):
        tried.append(now)
        return {"weights": GIB, "step": (10 - 2 * len(tried)) * GIB}

    rows = fit(setting("mask_rcnn_lesa_r50", images=2), 5 * GIB, memory)
    assert [size for *_, size in rows] == [9 * GIB, 7 * GIB, 5 * GIB]
    text = fit_text(rows, 5 * GIB)
    assert "It fits with: `train.accumulate=2 model.backbone.bottom_up.checkpoint_stages=[res5]`" in text
    assert "| as it is" in text
    assert [now.accumulate for now in tried] == [1, 2, 2]


def test_switches_that_cannot_be_run_are_left_out():
    def memory(now):
        if now.accumulate == 2:
            raise ConfigError("batch norms need more than one value")
        return {"step": GIB}

    rows = fit(setting("mask_rcnn_lesa_r50", images=2), 1, memory)
    assert not any("accumulate" in override for _, override, _ in rows)
    assert any("mixed precision" in name for name, *_ in rows)


def test_advice_where_nothing_has_to_be_done_and_where_nothing_helps():
    start = setting("mask_rcnn_lesa_r50")
    assert "It fits as it is." in fit_text(fit(start, GIB, lambda _: {"step": GIB}), GIB)
    assert "None of the switches" in fit_text(fit(start, GIB, lambda _: {"step": 2 * GIB}), GIB)
