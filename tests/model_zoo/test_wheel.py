"""The zoo of an installed wheel, away from the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from generated_data import shapes

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("lesa_d2", "configs", "setup.py", "pyproject.toml", "README.md")

LOAD_EVERYTHING = """
import torch
from pathlib import Path
import lesa_d2
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from lesa_d2 import model_zoo

site = Path(lesa_d2.__file__).parent
zoo = model_zoo.available()
for name, row in zoo.items():
    assert row.config.is_relative_to(site / "configs"), row.config
    cfg = model_zoo.get_config(name)
    with torch.device("meta"):
        if isinstance(cfg, CfgNode):
            cfg.MODEL.DEVICE = "meta"
            build_model(cfg)
        else:
            instantiate(cfg.model)
print(site.parent, len(zoo))
"""


def run(*command, cwd, **environment):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package installed from a wheel of this repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for path in (ROOT / name for name in SOURCES):
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    pip = ("-m", "pip", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "./source")
    run(*pip, *build, cwd=folder)
    (wheel,) = (folder / "dist").glob("lesa_d2-*.whl")
    run(*pip, "install", "--no-deps", "--target", "site", wheel, cwd=folder)
    return folder / "site"


def test_everything_loads_and_builds_away_from_the_repository(site, tmp_path):
    out = run("-c", LOAD_EVERYTHING, cwd=tmp_path, PYTHONPATH=str(site)).split()
    names = len(list(ROOT.glob("configs/*.py"))) + len(list(ROOT.glob("configs/yacs/*.yaml")))
    assert out == [str(site), str(names)]


def test_the_wheel_has_every_config_and_nothing_of_the_tests(site):
    ours = {
        file.relative_to(ROOT) for suffix in ("py", "yaml") for file in ROOT.glob(f"configs/**/*.{suffix}")
    }
    theirs = {
        file.relative_to(site / "lesa_d2")
        for file in (site / "lesa_d2/configs").rglob("*.*")
        if file.suffix in (".py", ".yaml")
    }
    assert theirs == ours
    names = {entry.name for entry in site.iterdir() if not entry.name.endswith(".dist-info")}
    assert names == {"lesa_d2", "bin"}
    assert [script.name for script in (site / "bin").iterdir()] == ["lesa"]


def test_the_wheel_has_every_module(site):
    """pyproject.toml lists the packages one by one."""
    ours = {file.relative_to(ROOT) for file in (ROOT / "lesa_d2").rglob("*.py")}
    assert {file for file in ours if not (site / file).is_file()} == set()


def test_the_console_entry_trains_a_config_by_name_in_an_empty_folder(site, tmp_path):
    shrunk = [
        shapes("train", 2),
        shapes("val", 1),
        *(
            f"model.backbone.bottom_up.{key}"
            for key in ("base_channels=8", "blocks=[1,1,1,1]", "image_size=64")
        ),
        "dataloader.train.mapper.augmentations.0.shape=[64,64]",
        "dataloader.train.total_batch_size=1",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "model.roi_heads.num_classes=4",
        "train.init_checkpoint=''",
        "model.backbone.bottom_up.norm=BN",
        "model.backbone.bottom_up.freeze_at=0",
        "train.max_iter=1",
        "train.eval_period=0",
    ]
    command = [site / "bin/lesa", "train", "--config-file", "mask_rcnn_lesa_r50", *shrunk]
    run(*command, cwd=tmp_path, PYTHONPATH=str(site), DETECTRON2_DATASETS=str(tmp_path / "datasets"))
    names = {path.name for path in (tmp_path / "output/mask_rcnn_lesa_r50").iterdir()}
    assert {"config.yaml", "model_final.pth", "metrics.json"} <= names


def test_the_table_and_the_training_script_know_the_names(site, tmp_path):
    assert "mask_rcnn_lesa_r50" in run("-m", "lesa_d2.model_zoo", cwd=tmp_path, PYTHONPATH=str(site))
    code = "from lesa_d2.engine import load_config; print(load_config('quickstart_htc').train.output_dir)"
    assert run("-c", code, cwd=tmp_path, PYTHONPATH=str(site)).strip() == "./output/quickstart_htc"
