import copy

import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf
from torch import nn

from lesa_d2.config.lazy import apply_overrides, check_key, load_config, override_keys
from lesa_d2.errors import ConfigError


@pytest.fixture
def cfg():
    return OmegaConf.create(
        {
            "model": L(nn.Conv2d)(in_channels=3, out_channels=4, kernel_size=1),
            "train": {"max_iter": 5, "sizes": [[1, 2], [3]]},
            "items": [L(nn.ReLU)(inplace=True)],
        },
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    "key",
    [
        "train.max_iter",
        "model.in_channels",
        "model.stride",
        "train.sizes",
        "train.sizes.1",
        "items.0.inplace",
    ],
)
def test_known_keys(cfg, key):
    check_key(cfg, key)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.max_itr", "train.max_iter"),
        ("model.strid", "model.stride"),
        ("modle.stride", "model.stride"),
        ("items.0.inplac", "items.0.inplace"),
        ("max_iter", "train.max_iter"),
    ],
)
def test_unknown_keys_name_the_nearest(cfg, key, nearest):
    with pytest.raises(ConfigError, match=f"unknown config key '{key}'; did you mean '{nearest}'"):
        check_key(cfg, key)


@pytest.mark.parametrize("key", ["train.max_iter.deeper", "model.stride.x", "train.sizes.7", "zzz"])
def test_keys_below_values_are_unknown(cfg, key):
    with pytest.raises(ConfigError, match="unknown config key"):
        check_key(cfg, key)


def test_keys_of_overrides():
    assert override_keys(["x=1", "+a.b=2"]) == {"x", "a.b"}


@pytest.fixture
def referring():
    """A config in which keys refer to others: below a mapping, within a list, as a list, to the parent, twice."""
    return OmegaConf.create(
        {
            "train": {"list": [L(nn.Linear)(in_features=1, out_features=2)], "options": {"a": {"b": 1}}},
            "test": {"list": ["${train.list.0}"], "whole": "${train.list}", "bracket": "${train.list[0]}"},
            "head": {"classes": 3, "box": {"classes": "${..classes}", "options": "${...train.options}"}},
            "again": "${test.list.0}",
            "environment": "${oc.create:{a:1}}",
        },
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    ("key", "node", "instead"),
    [
        (
            "test.list.0.in_features",
            "test.list.0 is the reference ${train.list.0}",
            "train.list.0.in_features",
        ),
        ("test.list.0.bias", "test.list.0 is the reference ${train.list.0}", "train.list.0.bias"),
        ("test.whole.0.bias", "test.whole is the reference ${train.list}", "train.list.0.bias"),
        ("test.bracket.bias", "test.bracket is the reference ${train.list[0]}", "train.list.0.bias"),
        ("again.bias", "again is the reference ${test.list.0}", "train.list.0.bias"),
        (
            "head.box.options.a.b",
            "head.box.options is the reference ${...train.options}",
            "train.options.a.b",
        ),
    ],
)
def test_below_a_reference_the_key_to_use_is_named(referring, key, node, instead):
    before = copy.deepcopy(referring)
    with pytest.raises(ConfigError) as error:
        apply_overrides(referring, [f"{key}=7"])
    assert str(error.value) == f"cannot set {key}: {node}; set {instead}, which changes both"
    assert referring == before
    apply_overrides(referring, [f"{instead}=7"])
    assert OmegaConf.select(referring, key) == 7


def test_a_reference_itself_can_be_replaced(referring):
    apply_overrides(referring, ["head.box.classes=7", "test.whole=[]"])
    assert (referring.head.box.classes, referring.head.classes, referring.test.whole) == (7, 3, [])


def test_what_a_resolver_makes_has_no_other_key(referring):
    with pytest.raises(
        ConfigError, match=r"environment is the reference .*; give a value for environment as a"
    ):
        apply_overrides(referring, ["environment.a=2"])


def test_the_quick_starts_pictures_are_resized_in_one_place():
    cfg = load_config("quickstart_lesa")
    with pytest.raises(
        ConfigError, match=r"set dataloader\.train\.mapper\.augmentations\.0\.shape, which changes"
    ):
        apply_overrides(cfg, ["dataloader.test.mapper.augmentations.0.shape=[128,128]"])


def test_references_in_a_list_are_those_of_the_config():
    cfg = load_config("quickstart_lesa", ["train.seed=2", "train.tta.scales=[1,${train.seed}]"])
    assert list(cfg.train.tta.scales) == [1, 2]
