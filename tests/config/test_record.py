"""The config of a run: YAML without Python objects, or its source."""

import copy
import sys
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
from lesa_d2.layers.registry import OPERATORS

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
    before = config(a=1, b={"c": [1, 2], "d": [3], "gone": 1}, e=None, f={"x.y": {"z": 1}})
    after = config(a=1, b={"c": [1, 5], "d": [3, 4]}, e={"f": 1}, f={"x.y": {"z": 2}})
    assert changed(before, after) == [
        {"key": ["b", "gone"]},
        {"key": ["b", "c", 1], "value": 5},
        {"key": ["b", "d"], "value": [3, 4]},
        {"key": ["e"], "value": {"f": 1}},
        {"key": ["f", "x.y", "z"], "value": 2},
    ]


def test_a_replaced_callable_is_restored_with_its_own_arguments(source, tmp_path):
    source.write_text(
        source.read_text() + "from detectron2.config import LazyCall as L\nfrom torch import nn\n"
        "model.layer = L(nn.Linear)(in_features=2, out_features=3)\nmodel.rates = {'a.b': dict(lr=1)}\n"
    )
    cfg = read_config(str(source))
    origin = Origin(str(source), copy.deepcopy(cfg))
    cfg.model.layer = L(nn.ReLU)(inplace=True)
    cfg.model.rates["a.b"].lr = 2
    again = read_config(str(save_config(cfg, tmp_path, origin)))
    assert isinstance(instantiate(again.model.layer), nn.ReLU)
    assert again.model.rates == {"a.b": {"lr": 2}}


def test_the_record_of_an_earlier_run_is_replaced(source, tmp_path):
    cfg = read_config(str(source))
    origin = Origin(str(source), copy.deepcopy(cfg))
    without_lambda = config(model={"a": 1})
    for values, name in (
        (without_lambda, "config.yaml"),
        (cfg, "config.py"),
        (without_lambda, "config.yaml"),
    ):
        save_config(values, tmp_path, origin)
        assert run_config(tmp_path).name == name
        assert len(list(tmp_path.glob("config.*"))) == 1


def test_a_file_of_somebody_else_is_not_replaced(source, tmp_path):
    (tmp_path / "config.py").write_text("mine = 1")
    cfg = read_config(str(source))
    with pytest.raises(ConfigError, match=r"choose another train\.output_dir"):
        save_config(cfg, tmp_path, Origin(str(source), copy.deepcopy(cfg)))
    assert (tmp_path / "config.py").read_text() == "mine = 1"


def test_files_read_by_load_rel_are_kept(source, tmp_path):
    (source.parent / "other.py").write_text("sizes = dict(width=4)\n")
    source.write_text(
        source.read_text()
        + "from detectron2.config import LazyConfig\nmodel.w = LazyConfig.load_rel('other.py').sizes.width\n"
    )
    cfg = read_config(str(source))
    file = save_config(cfg, tmp_path, Origin(str(source), copy.deepcopy(cfg)))
    (source.parent / "other.py").unlink()
    assert read_config(str(file)).model.w == 4


def test_the_source_of_a_registered_operator_is_kept(tmp_path, monkeypatch):
    (tmp_path / "outside_op.py").write_text(
        "from lesa_d2.layers import LESA, register_operator\n\n\n"
        "@register_operator('of_outside')\nclass Mine(LESA):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    main = tmp_path / "main.py"
    main.write_text(
        "import outside_op\nfrom lesa_d2.config import load_config\n\ncfg = load_config('quickstart_lesa')\n"
        "model, dataloader, optimizer = cfg.model, cfg.dataloader, cfg.optimizer\n"
        "lr_multiplier, train = cfg.lr_multiplier, cfg.train\n"
        "model.backbone.bottom_up.operator = 'of_outside'\n"
    )
    cfg = read_config(str(main))
    (tmp_path / "run").mkdir()
    file = save_config(cfg, tmp_path / "run", Origin(str(main), copy.deepcopy(cfg)))
    OPERATORS.pop("of_outside")
    monkeypatch.delitem(sys.modules, "outside_op")
    again = read_config(str(file))
    assert again.model.backbone.bottom_up.operator == "of_outside"
    assert OPERATORS.pop("of_outside").__name__ == "Mine"
