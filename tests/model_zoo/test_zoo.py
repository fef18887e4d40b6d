"""Configs and models by name, and the command line."""

import pytest
import torch
from detectron2.config import CfgNode
from omegaconf import DictConfig

from lesa_d2 import model_zoo
from lesa_d2.checkpoint import catalog
from lesa_d2.config.files import config_files
from lesa_d2.errors import CheckpointError, ConfigError
from lesa_d2.model_zoo.__main__ import main

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
        box_ap=44.0,
        mask_ap=39.2,
        top1=None,
        source="paper",
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


def test_the_table_says_where_weights_come_from(models):
    (models / "mask_rcnn_lesa_r50.pth").touch()
    (models / "catalog.json").write_text('{"imagenet_lesa_r50": {"url": "https://a.example/x.pth"}}')
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


def test_without_weights_the_ways_to_get_them_are_named(models):
    with pytest.raises(CheckpointError) as error:
        model_zoo.get("mask_rcnn_lesa_dconv_r50_20e", trained=True)
    for words in (
        "cannot be downloaded",
        "train_net.py --config-file configs/mask_rcnn_lesa_dconv_r50_20e.py",
        f"--from official-detector SRC {models / 'mask_rcnn_lesa_dconv_r50_20e.pth'}",
        "trained=False",
    ):
        assert words in str(error.value)


def test_command_line(models, tmp_path, capsys):
    model = model_zoo.get(SMALL)
    file = save(model, tmp_path / "model_final.pth")
    assert main(["add", SMALL, str(file), "--url", "https://a.example/x.pth"]) == 0
    assert f"lesa://{SMALL}.pth is {models / SMALL}.pth" in capsys.readouterr().out
    save(model, models / "bare.pth")
    (models / "catalog.json").write_text(
        (models / "catalog.json").read_text().replace("{", '{"gone": {"sha256": "%s"},' % ("a" * 64), 1)
    )
    assert main([]) == 0
    table = capsys.readouterr().out
    assert f"Weights are looked for in {models}" in table
    assert "Others known there: bare, gone" in table
    assert main(["verify"]) == 0
    states = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:])
    assert states["gone"] == "not here"
    assert states[SMALL] == "ok"
    assert states["bare"].startswith("no digest recorded")
    save(model_zoo.get(SMALL), models / f"{SMALL}.pth")
    assert main(["verify"]) == 1
    assert "damaged" in capsys.readouterr().out
    assert main(["add", SMALL, str(file)]) == 2
    assert "error: " in capsys.readouterr().err
    (models / "catalog.json").write_text("[]")
    for command in ([], ["verify"], ["add", SMALL, str(file), "--force"]):
        assert main(command) == 2
        assert capsys.readouterr().err.startswith(f"error: {models / 'catalog.json'} is no catalog")


def test_verify_in_an_empty_folder(models, capsys):
    assert main(["verify"]) == 0
    assert "holds no weights" in capsys.readouterr().out


def test_progress_of_large_files_alone(tmp_path, monkeypatch, capsys):
    file = tmp_path / "x"
    file.write_bytes(b"123")
    catalog.sha256_of(file)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(catalog, "LARGE", 1)
    catalog.sha256_of(file)
    assert "SHA-256 of x" in capsys.readouterr().err
