"""Schedules for other amounts of data."""

import pytest
from runs import ROOT

from lesa_d2.config.lazy import apply_overrides
from lesa_d2.engine import load_config
from lesa_d2.engine.schedule import LEAST, Schedule, fit_iterations, fit_periods

COCO, QUICK, HTC = "mask_rcnn_lesa_r50", "quickstart_lesa", "htc_lesa_dconv_wr50_20e_1280"


def fitted(name, images, *given):
    file = str(ROOT / f"configs/{name}.py")
    return fit(load_config(file, given), Schedule.of(load_config(file)), images, given)


def fit(cfg, schedule, images, given=()):
    """As a run does: what is typed comes after each step."""
    fit_iterations(cfg, schedule, images)
    apply_overrides(cfg, given)
    line = fit_periods(cfg, schedule, images)
    apply_overrides(cfg, given)
    return cfg, line


@pytest.mark.parametrize(
    ("name", "images", "iterations"),
    [
        (COCO, 14, LEAST),
        (COCO, 4000, 6000),  # 12 epochs of 4000 / 8
        (COCO, 117266, 175899),
        (COCO, 10**6, 175899),
        (QUICK, 14, 1000),
        (QUICK, 10**5, 1500),
        (HTC, 4000, 20000),  # 20 epochs of 4000 / 4
    ],
)
def test_iterations(name, images, iterations):
    cfg, line = fitted(name, images)
    assert cfg.train.max_iter == iterations
    assert f"{iterations:,} iterations" in line
    assert cfg.train.eval_period == cfg.train.checkpointer.period == -(-iterations // 5)
    assert cfg.train.reference_images == images


def test_a_larger_batch_takes_fewer_iterations():
    assert fitted(COCO, 4000, "dataloader.train.total_batch_size=16")[0].train.max_iter == 3000


@pytest.mark.parametrize(("images", "iterations"), [(117266, 351798), (10**6, 351798), (14, LEAST)])
def test_a_smaller_batch_keeps_the_epochs(images, iterations):
    cfg, line = fitted(COCO, images, "dataloader.train.total_batch_size=4")
    assert cfg.train.max_iter == iterations
    assert "kept between 1,000 and 351,798, which see as many images as the config's 175,899 of 8" in line


def test_no_images_are_left_to_the_loader_to_complain_about():
    cfg, line = fitted(COCO, 0)
    assert cfg.train.max_iter == LEAST
    assert "no epochs of 0 images" in line


@pytest.mark.parametrize(("images", "warmup"), [(14, 200), (4000, 500)])
def test_warmup_keeps_its_iterations_up_to_a_fifth(images, warmup):
    cfg, _ = fitted(COCO, images)
    assert cfg.lr_multiplier.warmup_length * cfg.train.max_iter == pytest.approx(warmup)


def test_what_is_given_stays():
    cfg, line = fitted(
        COCO, 14, "train.max_iter=100", "train.eval_period=7", "lr_multiplier.warmup_length=0.5"
    )
    assert (cfg.train.max_iter, cfg.train.eval_period, cfg.train.checkpointer.period) == (100, 7, 20)
    assert cfg.lr_multiplier.warmup_length == 0.5
    assert "as given" in line
    cfg, _ = fitted(COCO, 14, "train.max_iter=100", "train.checkpointer.period=9")
    assert (cfg.train.eval_period, cfg.train.checkpointer.period) == (20, 9)
    assert cfg.lr_multiplier.warmup_length == 0.2  # of the config's 500 iterations a fifth of 100


def test_fitting_twice_changes_nothing():
    once, _ = fitted(COCO, 4000)
    schedule, before = Schedule.of(once), once.copy()
    fit(once, schedule, 4000)
    assert once.train == before.train
    assert once.lr_multiplier.warmup_length == pytest.approx(before.lr_multiplier.warmup_length)


def test_a_config_that_does_not_say_what_it_is_for_keeps_its_length():
    cfg = load_config(str(ROOT / "configs/quickstart_lesa.py"))
    cfg.train.max_iter, cfg.train.reference_images = 123, None
    cfg, line = fit(cfg, Schedule.of(cfg), 14)
    assert cfg.train.max_iter == 123
    assert "train.reference_images" in line
    assert cfg.train.reference_images is None
