import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf
from torch import nn

from lesa_d2.config.lazy import check_key, override_keys
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
