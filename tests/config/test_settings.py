import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lesa_d2.config import load_config
from lesa_d2.config.settings import (
    SETTINGS,
    check_settings,
    default_train,
    fill_defaults,
    settings_of,
    settings_table,
)
from lesa_d2.errors import ConfigError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))


CLASSIFIER = str(CONFIGS[0].with_name("imagenet_lesa_r50.py"))
DETECTORS = [file for file in CONFIGS if not file.stem.startswith(("imagenet", "quickstart_classifier"))]


@pytest.fixture
def cfg():
    return load_config(str(DETECTORS[0]))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_configs_are_right(file):
    cfg = load_config(str(file))
    check_settings(cfg)
    assert cfg.train.task == ("detection" if file in DETECTORS else "classification")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.max_iter", 0),
        ("train.max_iter", None),
        ("train.max_iter", "abc"),
        ("train.max_iter", 1.5),
        ("train.max_iter", True),
        ("train.seed", -1),
        ("train.accumulate", 0),
        ("train.clip_grad_norm", -1),
        ("train.clip_grad_norm", 0),
        ("train.amp.enabled", 1),
        ("train.amp.dtype", "int8"),
        ("train.ema.decay", 1.0),
        ("train.checkpointer.period", 0),
        ("train.eval_period", -1),
        ("train.log_period", 0),
        ("train.best_metric", "bbox/APx"),
        ("train.device", "tpu"),
        ("train.tta.scales", []),
        ("train.tta.scales", [1.0, 1e6]),
        ("train.output_dir", ""),
        ("train.init_checkpoint", None),
        ("dataloader.train.total_batch_size", 0),
        ("optimizer.lr", 0),
        ("optimizer.lr", float("inf")),
        ("model.input_format", "XYZ"),
    ],
)
def test_each_wrong_value_is_named(cfg, key, value):
    OmegaConf.update(cfg, key, value)
    with pytest.raises(ConfigError, match=rf"(?s){key} must be .* got {re.escape(repr(value))}"):
        check_settings(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.clip_grad_norm", 0.5),
        ("train.best_metric", "bbox/AP-star"),
        ("train.device", "cuda:3"),
        ("train.eval_period", 0),
        ("optimizer.lr", 1),
    ],
)
def test_right_values_pass(cfg, key, value):
    OmegaConf.update(cfg, key, value)
    check_settings(cfg)


def test_all_are_listed_at_once(cfg):
    cfg.train.seed, cfg.train.device = -1, "tpu"
    with pytest.raises(ConfigError, match=r"(?s)train\.seed must be.*train\.device must be"):
        check_settings(cfg)


@pytest.mark.parametrize("key", ["train", "train.amp"])
@pytest.mark.parametrize("value", [3, True, None, "${..a}", "${none}"])
def test_a_value_in_place_of_a_section(cfg, key, value):
    OmegaConf.update(cfg, key, value, merge=False)
    with pytest.raises(ConfigError, match=rf"  {re.escape(key)} must be a section of the config, got "):
        check_settings(cfg)


def test_a_missing_key_is_named(cfg):
    del cfg.train["accumulate"]
    with pytest.raises(ConfigError, match=r"train\.accumulate is missing; expected a whole number"):
        check_settings(cfg)


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_a_default_section_has_every_key_of_its_task_and_passes(task):
    train = default_train(task)
    keys = {key.split(".")[1] for key in settings_of(task) if key.startswith("train.")}
    assert set(train) == keys - {"max_iter"}
    train.max_iter = 1
    check_settings(OmegaConf.create({"train": train}), sections=("train",))


def test_a_plain_detectron2_section_is_completed():
    cfg = OmegaConf.create(
        {
            "train": {"max_iter": 7, "amp": {"enabled": True}},
            "dataloader": {"train": {"total_batch_size": 16}},
        }
    )
    fill_defaults(cfg)
    check_settings(cfg)
    assert (cfg.train.task, cfg.train.seed, cfg.train.reference_batch) == ("detection", 0, 16)
    assert cfg.train.amp == {"enabled": True, "dtype": None}  # float16 on a GPU, as detectron2 means it


def test_a_misspelled_key_of_a_file_is_named_and_others_are_a_users_own(cfg):
    OmegaConf.update(cfg, "train.my_own_key", 3)
    check_settings(cfg)
    OmegaConf.update(cfg, "train.log_perod", 3)
    with pytest.raises(ConfigError, match=r"unknown key train\.log_perod; did you mean 'train\.log_period'"):
        check_settings(cfg)


def test_the_documents_have_the_table():
    text = (CONFIGS[0].parents[1] / "docs/settings.md").read_text(encoding="utf-8")
    assert settings_table() in text, (
        "put what `python -m lesa_d2.config.settings` prints into docs/settings.md"
    )
    assert all(f"`{key}`" in text for key in SETTINGS)


def test_train_ddp_takes_what_ddp_takes_and_nothing_else():
    cfg = load_config("mask_rcnn_lesa_r50", ["train.ddp.bucket_cap_mb=50", "train.ddp.fp16_compression=True"])
    check_settings(cfg)
    assert cfg.train.ddp.bucket_cap_mb == 50
    for name in ("bucket_size", "module", "device_ids"):
        with pytest.raises(ConfigError, match=f"unknown config key 'train.ddp.{name}'"):
            load_config("mask_rcnn_lesa_r50", [f"train.ddp.{name}=1"])
        cfg.train.ddp = {name: 1}
        with pytest.raises(
            ConfigError, match=rf"unknown key train\.ddp\.{name}; expected one of .*bucket_cap_mb"
        ):
            check_settings(cfg)
