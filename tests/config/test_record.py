"""The config of a run: YAML without Python objects, or its source."""

import copy
from functools import partial

import pytest
import yaml
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from omegaconf import OmegaConf
from torch import nn

from lesa_d2.config import load_config, run_config, save_config
from lesa_d2.config.lazy import apply_overrides, read_config
from lesa_d2.config.record import Origin, changed
from lesa_d2.config.yaml_form import NoYamlFormError, load_yaml, plain, to_yaml
from lesa_d2.errors import ConfigError

SECTIONS = "dataloader = optimizer = lr_multiplier = {}\ntrain = dict(max_iter=3)\n"


def config(**values):
    return OmegaConf.create(values, flags={"allow_objects": True})


def test_classes_partials_and_dataclasses_have_a_form(tmp_path):
    cfg = config(
        layer=L(nn.Conv2d)(in_channels=1, out_channels=2, kernel_size=(3, 3)),
        norm=partial(nn.LayerNorm, eps=1e-3),
        kind=nn.ReLU,
        shape=ShapeSpec(channels=3, stride=4),
        reference="${layer.in_channels}",
    )
    text = to_yaml(cfg)
    assert "!!python" not in text
    again = OmegaConf.create(yaml.safe_load(text))
    norm = instantiate(again.norm)
    assert isinstance(norm, partial)
    assert (norm.func, norm.keywords) == (nn.LayerNorm, {"eps": 1e-3})
    assert instantiate(again.kind) is nn.ReLU
    assert instantiate(again.shape) == ShapeSpec(channels=3, stride=4)
    assert isinstance(instantiate(again.layer), nn.Conv2d)
    assert again.reference == 1


@pytest.mark.parametrize(
    "value", [lambda x: x, object(), partial(lambda x: x), partial(nn.LayerNorm, 3), {(1, 2): 3}]
)
def test_what_has_no_form(value):
    with pytest.raises(NoYamlFormError):
        plain(value)


def test_files_that_detectron2_saved_are_read(tmp_path):
    cfg = config(shape=ShapeSpec(channels=3), pair=(1, 2), layer=L(nn.ReLU)(inplace=True))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert "!!python" in (tmp_path / "config.yaml").read_text()
    again = load_yaml(str(tmp_path / "config.yaml"))
    assert instantiate(again.shape) == ShapeSpec(channels=3)
    assert list(again.pair) == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        'x: !!python/object/apply:os.system ["touch {file}"]',
        "x: !!python/name:os.system",
        "x: !!python/object:subprocess.Popen {{args: [touch, {file}]}}",
        'x: !!python/object/new:os.system ["touch {file}"]',
        "x: !!python/module:os",
        "x: !!python/object:torch.nn.ReLU {{inplace: true}}",
    ],
)
def test_nothing_else_is_made_by_a_tag(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text.format(file=tmp_path / "made"))
    with pytest.raises(ConfigError, match=r"config\.yaml' cannot be loaded"):
        load_config(str(tmp_path / "config.yaml"))
    assert not (tmp_path / "made").exists()


@pytest.fixture
def source(tmp_path):
    """A config with a lambda, and files that it imports from beside and above."""
    (tmp_path / "project/deep").mkdir(parents=True)
    (tmp_path / "project/base.py").write_text("numbers = dict(width=2)\n")
    (tmp_path / "project/deep/middle.py").write_text(
        "from ..base import numbers\nmodel = dict(numbers=numbers)\n"
    )
    main = tmp_path / "project/deep/main.py"
    main.write_text(
        f"from .middle import model\n{SECTIONS}model.act = lambda x: x + 1\nmodel.items = [1, dict(a=2)]\n"
    )
    return main


def test_the_source_is_kept_with_what_changed(source, tmp_path):
    cfg = read_config(str(source))
    origin = Origin(str(source), copy.deepcopy(cfg))
    apply_overrides(cfg, ["model.numbers.width=7", "model.items.1.a=5", "train.seed=4"])
    cfg.model.added = {"deep": [1, 2]}
    run = tmp_path / "run"
    run.mkdir()
    assert save_config(cfg, run, origin) == run / "config.py"
    for file in (source, source.with_name("middle.py"), source.parents[1] / "base.py"):
        file.write_text("raise RuntimeError('the originals are not read again')")
    again = load_config(str(run_config(run)), ["train.max_iter=9"])
    assert (again.model.numbers.width, again.model["items"][1].a, again.train.seed) == (7, 5, 4)
    assert (again.model.added.deep, again.train.max_iter) == ([1, 2], 9)
    assert again.model.act(1) == 2


def test_a_record_is_saved_again_in_its_folder_and_elsewhere(source, tmp_path):
    cfg = read_config(str(source))
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    save_config(cfg, first, Origin(str(source), copy.deepcopy(cfg)))
    for folder, rate in ((first, 1), (second, 2)):
        again = read_config(str(first / "config.py"))
        origin = Origin(str(first / "config.py"), copy.deepcopy(again))
        again.train.seed = rate
        save_config(again, folder, origin)
        assert load_config(str(folder / "config.py")).train.seed == rate
    assert not list(second.rglob("config_source/config.py"))


def test_what_cannot_be_saved_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be saved: it holds .*lambda.*; keep it in a \.py file"):
        save_config(config(act=lambda x: x), tmp_path)


def test_a_folder_without_a_record(tmp_path):
    with pytest.raises(ConfigError, match=r"holds neither config\.yaml nor config\.py"):
        run_config(tmp_path)


def test_changes_by_key():
    before = config(a=1, b={"c": [1, 2], "d": [3]}, e=None)
    after = config(a=1, b={"c": [1, 5], "d": [3, 4]}, e={"f": 1})
    assert changed(before, after) == {"b.c.1": 5, "b.d": [3, 4], "e": {"f": 1}}
