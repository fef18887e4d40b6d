"""What a YAML file, an override and a yacs file may name: nothing else is imported or called."""

import functools
import os
import sys

import pytest
import yaml
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from omegaconf import OmegaConf
from runs import lesa
from torch import nn

from lesa_d2.config import load_any_config, load_config, load_yacs_config, run_config, save_config
from lesa_d2.config.lazy import read_config
from lesa_d2.config.record import Origin
from lesa_d2.config.yaml_form import load_yaml, plain
from lesa_d2.errors import ConfigError
from lesa_d2.layers import find_operator
from lesa_d2.trust import LISTED, PLACES, allowed, check_names

REFUSED = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "functools.partial",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.utils.cpp_extension.load",
    "torch.nn.modules.module.warnings.warn",
    "torch.nn.Module.load_state_dict",
    "torch.nn.functional.torch.hub.load",
    "torch.utils.data.datapipes.iter.RoutedDecoder",
    "torchvision.datasets.MNIST",
    "torchvision.datasets.utils.download_and_extract_archive",
    "torchvision.models.resnet50",
    "detectron2.utils.env._import_file",
    "detectron2.utils.registry.locate",
    "detectron2.config.instantiate",
    "detectron2.config.LazyConfig.load",
    "detectron2.data.catalog.DatasetCatalog",
    "detectron2.evaluation.coco_evaluation.os.system",
    "detectron2.modeling.mmdet_wrapper.MMDetDetector",
    "detectron2.modeling.build_model",
    "fvcore.common.config.CfgNode",
    "lesa_d2.config.lazy.read_config",
    "lesa_d2.data.folder.Path",
    "lesa_d2.cli.main",
    "lesa_d2",
    "torchx.nn.Linear",
    "torch.nn.",
    "torch..nn",
    "torch.nn.Linear()",
    "${model}",
    "",
]


@pytest.mark.parametrize("path", REFUSED)
def test_refused(path):
    with pytest.raises(ConfigError, match="the config names"):
        allowed(path)


@pytest.mark.parametrize(
    "path",
    [
        "torch.nn.Conv2d",
        "torch.nn.modules.normalization.LayerNorm",
        "torch.optim.SGD",
        "torch.optim.lr_scheduler.StepLR",
        "torch.utils.data.ConcatDataset",
        "torch.utils.data.RandomSampler",
        "torchvision.datasets.ImageFolder",
        "torchvision.transforms.v2.Resize",
        "fvcore.common.param_scheduler.CosineParamScheduler",
        "detectron2.layers.ShapeSpec",
        "detectron2.layers.shape_spec.ShapeSpec",
        "detectron2.data.get_detection_dataset_dicts",
        "detectron2.data.samplers.RepeatFactorTrainingSampler",
        "detectron2.data.transforms.RandomFlip",
        "detectron2.evaluation.COCOEvaluator",
        "detectron2.modeling.backbone.resnet.ResNet.make_stage",
        "detectron2.modeling.matcher.Matcher",
        "detectron2.solver.LRMultiplier",
        "lesa_d2.layers.LESA",
        "lesa_d2.modeling.build_lesa_resnet",
    ],
)
def test_allowed(path):
    assert callable(allowed(path))


def test_everything_listed_is_there_and_in_its_place():
    for path in LISTED - {"detectron2.modeling.backbone.vit.get_vit_lr_decay_rate"}:
        assert callable(allowed(path))
        assert path.startswith(PLACES)


# ------------------------------------------------------------------------------------------ nothing runs


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of somebody, which leaves a mark when it is imported."""
    (tmp_path / "their_project").mkdir()
    (tmp_path / "their_project/__init__.py").write_text("")
    (tmp_path / "their_project/parts.py").write_text(
        f"open({str(tmp_path / 'mark')!r}, 'w').close()\n"
        "from lesa_d2.layers import LESA\nfrom torch import nn\n\n\n"
        "class Operator(LESA):\n    pass\n\n\n"
        "class Block(nn.Module):\n    def __init__(self, width=1):\n        super().__init__()\n\n\n"
        "class Other:\n    pass\n\n\n"
        "def build():\n    return Block()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_project.parts"
    for name in ("their_project", "their_project.parts"):
        sys.modules.pop(name, None)


SECTIONS = "dataloader: {}\noptimizer: {}\nlr_multiplier: {}\ntrain: {max_iter: 3}\n"
CODE = {
    "tag": 'model: !!python/object/apply:os.system ["touch {mark}"]\n',
    "new": 'model: !!python/object/new:os.system ["touch {mark}"]\n',
    "eval": "model: !!python/object/apply:eval [\"open('{mark}', 'w')\"]\n",
    "partial": "model: !!python/object/apply:functools.partial\n  args: [!!python/name:os.system '']\n"
    "  state: !!python/tuple [!!python/name:os.system '', !!python/tuple ['touch {mark}'], {{}}, null]\n",
    "state": "model: !!python/object/apply:functools.partial\n"
    "  state: [{{_target_: os.system}}, [], {{}}, null]\n",
    "target": "model: {{_target_: os.system, command: touch {mark}}}\n",
    "file": "model: {{_target_: detectron2.utils.env._import_file, module_name: x, file_path: {code}}}\n",
    "tag as target": "model: {{_target_: !!python/name:os.system '', command: touch {mark}}}\n",
    "located": "model: {{_target_: {{_target_: detectron2.utils.registry.locate, name: os.system}}, command: touch}}\n",
    "partial_of": "model: {{_target_: {{_target_: lesa_d2.config.yaml_form.partial_of, function: "
    "{{_target_: detectron2.utils.registry.locate, name: os.system}}, command: touch {mark}}}}}\n",
    "reference": "evil: os.system\nmodel: {{_target_: '${{evil}}', command: touch {mark}}}\n",
    "locate of a reference": "evil: os.system\n"
    "model: {{_target_: {{_target_: detectron2.utils.registry.locate, name: '${{evil}}'}}, command: touch}}\n",
    "resolver": "model: '${{oc.create:{{_target_:os.system,command:touch}}}}'\n",
    "decoded": "evil: '{{_target_: os.system, command: touch}}'\nmodel: '${{oc.decode:${{evil}}}}'\n",
    "list": "model: {{_target_: torch.nn.Sequential, parts: [[{{_target_: os.system}}]]}}\n",
    "merged": "base: &base {{_target_: os.system}}\nmodel: {{<<: *base, command: touch {mark}}}\n",
    "package": "model: {{_target_: their_project.parts.Block}}\n",
    "name of a package": "model: !!python/name:their_project.parts.Block ''\n",
    "shape": "model: !!python/object:detectron2.layers.shape_spec.ShapeSpec {{channels: {{_target_: os.system}}}}\n",
    "identity": "model: {{_target_: {{_target_: {{_target_: torch.nn.Identity}}, input: os.system}}}}\n",
    "collator": "model: {{_target_: {{_target_: detectron2.data.build.trivial_batch_collator, batch: os.system}}}}\n",
    "partial of a text": "model: {{_target_: {{_target_: lesa_d2.config.yaml_form.partial_of, function: "
    "{{_target_: detectron2.data.build.trivial_batch_collator, batch: os.system}}}}}}\n",
    "target in a list": "model: {{_target_: [os.system], command: touch {mark}}}\n",
    "proposals": "model: {{_target_: detectron2.data.get_detection_dataset_dicts, proposal_files: [x.pkl]}}\n",
    "a config as argument": "model: {{_target_: detectron2.data.build_detection_train_loader, cfg: {{DATASETS: a}}}}\n",
    "proposals of a partial": "model:\n  _target_: torch.nn.Identity\n"
    "  a: !!python/object/apply:functools.partial\n    state: "
    "[!!python/name:detectron2.data.build.get_detection_dataset_dicts '', [], {{proposal_files: [x.pkl]}}, null]\n",
    "place of proposals": "model:\n  _target_: torch.nn.Identity\n"
    "  a: !!python/object/apply:functools.partial\n    state: "
    "[!!python/name:detectron2.data.build.get_detection_dataset_dicts '', [a, true, 0, [x.pkl]], {{}}, null]\n",
    "text": '"model: {{_target_: os.system}}"\n',
}


@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize("load", [load_config, load_any_config, load_yacs_config], ids=lambda f: f.__name__)
def test_no_yaml_file_runs_code(kind, load, tmp_path, package):
    mark = tmp_path / "mark"
    (tmp_path / "code.py").write_text(f"open({str(mark)!r}, 'w')")
    sections = "" if kind == "text" else SECTIONS
    (tmp_path / "c.yaml").write_text(CODE[kind].format(mark=mark, code=tmp_path / "code.py") + sections)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(str(tmp_path / "c.yaml"))
    assert not mark.exists()
    assert package not in sys.modules


def test_no_base_of_a_yacs_file_runs_code(tmp_path):
    (tmp_path / "base.yaml").write_text(CODE["tag"].format(mark=tmp_path / "mark"))
    (tmp_path / "c.yaml").write_text("_BASE_: base.yaml\nMODEL: {MASK_ON: true}\n")
    for load in (load_any_config, load_yacs_config):
        with pytest.raises(ConfigError, match=r"base\.yaml"):
            load(str(tmp_path / "c.yaml"))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("command", ["train", "doctor", "demo", "export", "inspect"])
def test_no_command_runs_code_of_a_yaml_file(command, tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(CODE["tag"].format(mark=tmp_path / "mark"))
    (tmp_path / "a.png").write_bytes(b"")
    more = {
        "demo": ["--input", "a.png", "--output", "o"],
        "export": ["--output", "o"],
        "inspect": ["--images", "a.png"],
    }
    monkeypatch.chdir(tmp_path)
    done = lesa(command, "--config-file", "c.yaml", *more.get(command, []))
    assert done.returncode == (1 if command == "doctor" else 2)
    assert "object/apply" in (done.stdout if command == "doctor" else done.stderr)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=os.system",
        "model._target_={_target_: {_target_: torch.nn.Identity}, input: os.system}",
        "dataloader.train.dataset.proposal_files=[proposals.pkl]",
        "dataloader.train.cfg={DATASETS: {TRAIN: [a]}}",
        "model={_target_: os.system, command: touch}",
        "optimizer.params.lr_factor_func={_target_: detectron2.utils.registry.locate, name: os.system}",
        "dataloader.train.mapper.augmentations=[{_target_: os.system}]",
        "model.pixel_mean=${oc.create:{_target_:os.system}}",
        "model.backbone.bottom_up.norm={_target_: their_project.parts.build}",
    ],
)
def test_no_override_names_code(override, package):
    with pytest.raises(ConfigError):
        load_config("quickstart_lesa", [override, "model.backbone.bottom_up.norm.x=1"])
    assert package not in sys.modules


def test_a_located_class_of_a_config_is_not_replaced_by_an_override(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": plain({"kind": nn.ReLU})}) + SECTIONS)
    assert instantiate(load_config(str(tmp_path / "c.yaml")).model.kind) is nn.ReLU
    for override in ("model.kind.name=os.system", "model.kind={name: os.system}"):
        with pytest.raises(ConfigError, match=r"os\.system"):
            load_config(str(tmp_path / "c.yaml"), [override])


def test_no_operator_is_imported_for_its_name(package):
    for load in (
        lambda: find_operator(f"{package}.Operator"),
        lambda: allowed(f"{package}.Operator"),
    ):
        with pytest.raises(ConfigError, match="LESA_TRUST=their_project"):
            load()
    assert package not in sys.modules


# ---------------------------------------------------------------------------------------- what is read


def test_what_detectron2_saves_is_read(tmp_path):
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    cfg = OmegaConf.create(
        {
            "norm": norm,
            "shape": ShapeSpec(channels=3),
            "pair": (1, 2),
            "kind": nn.ReLU,
            "act": nn.functional.relu,
        },
        flags={"allow_objects": True},
    )
    LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    assert "functools.partial" in (tmp_path / "c.yaml").read_text()
    again = load_yaml(str(tmp_path / "c.yaml"))
    assert (again.norm.func, again.norm.keywords) == (nn.LayerNorm, {"eps": 1e-6})
    assert (again.kind, again.act) == (nn.ReLU, nn.functional.relu)
    assert instantiate(again.shape) == ShapeSpec(channels=3)
    assert list(again.pair) == [1, 2]


def test_references_to_keys_and_the_environment_are_read(monkeypatch):
    monkeypatch.setenv("SEED", "5")
    cfg = load_config(
        "quickstart_lesa", ["train.seed=${train.accumulate}", "train.output_dir=o/${oc.env:SEED}"]
    )
    assert (cfg.train.seed, cfg.train.output_dir) == (1, "o/5")


def test_the_expression_in_detectron2s_own_config_is_known():
    cfg = load_any_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES[1] == [64, 64 * 2 ** (1 / 3), 64 * 2 ** (2 / 3)]


def test_aliases_do_not_grow_without_end(tmp_path):
    lines = ["a0: &a0 [1, 1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        load_any_config(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("model: &m {a: *m}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_any_config(str(tmp_path / "c.yaml"))


# ------------------------------------------------------------------------------------------- LESA_TRUST


def test_a_package_that_the_user_trusts(package, monkeypatch):
    with pytest.raises(ConfigError, match=r"LESA_TRUST=their_project$"):
        allowed(f"{package}.Block")
    assert package not in sys.modules
    monkeypatch.setenv("LESA_TRUST", "another, their_project")
    assert allowed(f"{package}.Block").__name__ == "Block"
    assert find_operator(f"{package}.Operator").__name__ == "Operator"
    for name in ("build", "Other"):
        with pytest.raises(ConfigError, match=f"LESA_TRUST={package}.{name}$"):
            allowed(f"{package}.{name}")
    monkeypatch.setenv("LESA_TRUST", f"{package}.build")
    assert allowed(f"{package}.build").__name__ == "build"


def test_a_trusted_package_is_no_way_to_others(package, monkeypatch):
    monkeypatch.setenv("LESA_TRUST", "their_project")
    (sys.modules.get(package) or allowed(f"{package}.Block")) and None
    sys.modules[package].os = os
    with pytest.raises(ConfigError, match="not allowed"):
        allowed(f"{package}.os.system")
    with pytest.raises(ConfigError, match="not allowed"):
        allowed("their_project_2.parts.Block")


def test_a_program_names_what_it_likes_and_its_record_is_read(tmp_path, package, monkeypatch):
    """The class of another module: the record is the source; where the user trusts the module, YAML."""
    config = tmp_path / "mine.py"
    config.write_text(
        "from detectron2.config import LazyCall as L\nfrom their_project.parts import Block\n"
        "model, optimizer = L(Block)(width=2), {}\ndataloader = lr_multiplier = {}\ntrain = dict(max_iter=3)\n"
    )
    cfg = load_config(str(config), ["model.width=3"])
    origin = Origin(str(config), read_config(str(config)))
    assert save_config(cfg, tmp_path, origin).name == "config.py"
    assert type(instantiate(load_config(str(run_config(tmp_path))).model)).__name__ == "Block"
    monkeypatch.setenv("LESA_TRUST", "their_project")
    saved = save_config(cfg, tmp_path, origin)
    assert saved.name == "config.yaml"
    assert instantiate(load_config(str(saved)).model) is not None
    monkeypatch.delenv("LESA_TRUST")
    with pytest.raises(ConfigError, match="LESA_TRUST=their_project"):
        load_config(str(saved))


def test_a_text_in_a_program_is_not_checked(tmp_path, package):
    config = tmp_path / "mine.py"
    config.write_text(
        "from detectron2.config import LazyCall as L\n"
        f"model = L('{package}.Block')(width=2)\noptimizer = dataloader = lr_multiplier = {{}}\n"
        "train = dict(max_iter=3)\n"
    )
    assert load_config(str(config), ["model.width=3", "train.output_dir=x"]).model.width == 3


def test_known_names_are_not_checked_again():
    check_names({"a": {"_target_": "os.system"}}, known={"os.system"})
    with pytest.raises(ConfigError):
        check_names({"a": L("os.system")(x=1)})
