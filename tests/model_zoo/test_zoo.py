"""Configs and models by name, and the command line."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from omegaconf import DictConfig

from lesa_d2 import model_zoo, weights
from lesa_d2.config.files import config_files
from lesa_d2.errors import CheckpointError, ConfigError
from lesa_d2.model_zoo import main

SMALL = "quickstart_lesa"


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def save(model, file):
    torch.save({"model": model.state_dict()}, file)
    return file


def test_the_table_has_every_config(models):
    zoo = model_zoo.available()
    assert list(zoo) == list(config_files())
    assert len(zoo) == len(list(iter(zoo)))
    assert SMALL in zoo
    assert "common/coco" not in zoo
    assert zoo["mask_rcnn_lesa_dconv_r50_20e"] == model_zoo.Row(
        config=config_files()["mask_rcnn_lesa_dconv_r50_20e"],
        operator="deformable lesa",
        task="detection",
        results=weights.Result("paper", box_ap=44.0, mask_ap=39.2),
        weights="none",
    )
    assert (zoo["imagenet_sa_r50"].operator, zoo["imagenet_sa_r50"].task) == (
        "self_attention",
        "classification",
    )
    assert zoo["yacs/mask_rcnn_lesa_wr50"].operator == "lesa"
    lines = str(zoo).splitlines()
    assert len(lines) == len(zoo) + 2
    line = next(line for line in lines if line.startswith("mask_rcnn_lesa_dconv_r50_20e"))
    assert line.split() == [
        "mask_rcnn_lesa_dconv_r50_20e",
        *["deformable", "lesa", "detection", "44.0", "39.2", "–", "paper", "none"],
    ]


def test_the_table_says_where_weights_come_from(models, monkeypatch):
    (models / "mask_rcnn_lesa_r50.pth").touch()
    download = weights.Download("https://a.example/x.pth", "a" * 64)
    monkeypatch.setitem(weights.DOWNLOADS, "imagenet_lesa_r50", download)
    zoo = model_zoo.available()
    assert zoo["mask_rcnn_lesa_r50"].weights == zoo["yacs/mask_rcnn_lesa_r50"].weights == "local"
    assert zoo["imagenet_lesa_r50"].weights == "download"
    assert zoo["mask_rcnn_conv_r50"].weights == "none"


def test_configs_of_both_kinds():
    assert isinstance(model_zoo.get_config("mask_rcnn_lesa_r50"), DictConfig)
    cfg = model_zoo.get_config("yacs/mask_rcnn_lesa_wr50.yaml")
    assert isinstance(cfg, CfgNode)
    assert (cfg.MODEL.LESA.WIDTH_MULTIPLIER, cfg.MODEL.BACKBONE.FREEZE_AT) == (2, 2)  # with its _BASE_
    with pytest.raises(ConfigError, match="did you mean 'quickstart_lesa'"):
        model_zoo.get_config("quickstart_lesaa")
    model_zoo.get_config(SMALL).train.max_iter = 1  # a copy: changing it changes nothing else
    assert model_zoo.get_config(SMALL).train.max_iter != 1


def test_a_model_is_trainable_and_on_its_device(models):
    before = torch.get_rng_state()
    model = model_zoo.get(SMALL, device="cpu")
    assert model.training
    assert next(model.parameters()).device.type == "cpu"
    assert next(model_zoo.get(SMALL, device="meta").parameters()).is_meta
    assert not torch.equal(before, torch.get_rng_state())  # initial values are drawn, and nothing is seeded


@pytest.mark.parametrize("name", [None, 3])
def test_a_config_is_asked_for_by_name(name):
    for use in (model_zoo.get_config, model_zoo.get):
        with pytest.raises(ConfigError, match=rf"expected the name of a config.*got {name}"):
            use(name)


def test_a_device_that_cannot_be_used_is_one_error():
    with pytest.raises(ConfigError, match=r"device 'gpu' cannot be used: .*Give 'cpu'"):
        model_zoo.get(SMALL, device="gpu")
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used"):
        model_zoo.get(SMALL, device="cuda:99")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there(device):
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used: no GPU is found"):
        model_zoo.get(SMALL, device=device)


def test_a_trained_model_has_the_weights_of_its_name(models):
    weights = model_zoo.get(SMALL).state_dict()
    save(model_zoo.get(SMALL), models / "other.pth")
    torch.save({"model": weights, "iteration": 5, "optimizer": {"state": {}}}, models / f"{SMALL}.pth")
    trained = model_zoo.get(f"{SMALL}.py", trained=True)
    assert trained.training
    assert all(torch.equal(value, weights[name]) for name, value in trained.state_dict().items())


def test_weights_of_another_model_are_an_error(models):
    save(model_zoo.get("quickstart_conv"), models / f"{SMALL}.pth")
    with pytest.raises(CheckpointError, match="is not a checkpoint of this model"):
        model_zoo.get(SMALL, trained=True)


def test_without_weights_it_says_how_to_get_them(models):
    with pytest.raises(CheckpointError) as error:
        model_zoo.get("mask_rcnn_lesa_dconv_r50_20e", trained=True)
    file = str(models / "mask_rcnn_lesa_dconv_r50_20e.pth")
    for words in (file, "lesa train", "lesa convert", "trained=False"):
        assert words in str(error.value)


def test_command_line(models, capsys):
    save(model_zoo.get(SMALL), models / f"{SMALL}.pth")
    (models / "mine.pth").touch()
    assert main([]) == 0
    table = capsys.readouterr().out
    assert table.startswith(str(model_zoo.available()))
    assert f"Weights are looked for in {models}" in table
    assert "Others there: mine\n" in table
    with pytest.raises(SystemExit) as stop:
        main(["add", "mine"])
    assert stop.value.code == 2


def test_operators_are_found_wherever_the_backbone_stands(tmp_path, monkeypatch):
    """A config of any shape: the backbone in a list, with the operator as a class, or not ours at all."""
    config = """
from detectron2.config import LazyCall as L
from torch import nn
from lesa_d2.layers import SelfAttention
from lesa_d2.modeling import build_lesa_resnet

model = L(nn.Sequential)(args=[dict(inner={backbone})])
dataloader, optimizer, lr_multiplier, train = dict(), dict(), dict(), dict(task="segmentation")
"""
    for name, backbone in (
        ("ours", "L(build_lesa_resnet)(deformable=True)"),
        ("own", "L(build_lesa_resnet)(operator=SelfAttention)"),
        ("none", "L(nn.Identity)()"),
    ):
        (tmp_path / f"{name}.py").write_text(config.replace("{backbone}", backbone))
    files = {name: tmp_path / f"{name}.py" for name in ("ours", "own", "none")}
    monkeypatch.setattr(model_zoo, "config_files", lambda: files)
    monkeypatch.setattr(model_zoo, "find_config", files.get)
    rows = {name: (row.operator, row.task) for name, row in model_zoo.available().items()}
    assert rows == {
        "ours": ("deformable lesa", "segmentation"),
        "own": ("SelfAttention", "segmentation"),
        "none": ("", "segmentation"),
    }


def test_files_and_addresses_by_name():
    for name in ("mask_rcnn_lesa_r50", "mask_rcnn_lesa_r50.py", "yacs/mask_rcnn_lesa_r50"):
        assert Path(model_zoo.get_config_file(name)).is_file()
        assert model_zoo.get_checkpoint_url(name) == "lesa://mask_rcnn_lesa_r50.pth"
    of_detectron2 = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    assert model_zoo.get_config_file(of_detectron2).endswith(of_detectron2)
    for get in (model_zoo.get_config_file, model_zoo.get_checkpoint_url):
        with pytest.raises(ConfigError, match="did you mean 'mask_rcnn_lesa_r50'"):
            get("mask_rcn_lesa_r50")
