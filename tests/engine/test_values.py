from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lesa_d2.engine import Classification, Detection, load_config
from lesa_d2.engine.values import OPTIONAL_RULES, RULES, check_values
from lesa_d2.errors import ConfigError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))


CLASSIFIER = str(CONFIGS[0].with_name("imagenet_lesa_r50.py"))
DETECTORS = [file for file in CONFIGS if not file.stem.startswith(("imagenet", "quickstart_classifier"))]


@pytest.fixture
def cfg():
    return load_config(str(DETECTORS[0]))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_configs_are_right(file):
    task = Detection if file in DETECTORS else Classification
    check_values(load_config(str(file)), task.rules)


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
    with pytest.raises(ConfigError, match=rf"(?s){key} must be .* got {value!r}"):
        check_values(cfg, Detection.rules)


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
    check_values(cfg, Detection.rules)


def test_all_are_listed_at_once(cfg):
    cfg.train.seed, cfg.train.device = -1, "tpu"
    with pytest.raises(ConfigError, match=r"(?s)train\.seed must be.*train\.device must be"):
        check_values(cfg, Detection.rules)


@pytest.mark.parametrize("key", ["train", "train.amp"])
@pytest.mark.parametrize("value", [3, True, None])
def test_a_value_in_place_of_a_section(cfg, key, value):
    OmegaConf.update(cfg, key, value, merge=False)
    with pytest.raises(ConfigError, match=r"train\.amp\.enabled is missing"):
        check_values(cfg, Detection.rules)


def test_a_missing_key_is_named(cfg):
    del cfg.train["accumulate"]
    with pytest.raises(ConfigError, match=r"train\.accumulate is missing; expected a whole number"):
        check_values(cfg, Detection.rules)


def test_every_key_of_the_train_section_has_a_rule(cfg):
    of_detectors = {"tta", "report", "reference_images"}
    for config, task in ((cfg, Detection), (load_config(CLASSIFIER), Classification)):
        rules = {**RULES, **OPTIONAL_RULES, **task.rules}
        ruled = {key.split(".")[1] for key in rules if key.startswith("train.")}
        assert set(config.train) == ruled - (of_detectors if task is Classification else set())
