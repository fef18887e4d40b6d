"""Everything that docs/model_zoo.md tells to run."""

import shutil

import torch
from pages import ROOT, blocks, run

from lesa_d2 import model_zoo


def test_commands_and_snippets_in_order(tmp_path):
    environment = {"LESA_MODELS": str(tmp_path / "models"), "DETECTRON2_DATASETS": str(tmp_path / "datasets")}
    for run_folder in ("quickstart/lesa", "mine"):
        (tmp_path / "output" / run_folder).mkdir(parents=True)
        state = model_zoo.get("quickstart_lesa").state_dict()
        torch.save({"model": state}, tmp_path / "output" / run_folder / "model_ema_final.pth")
    weights, wheel = blocks("model_zoo", "bash")
    out = run(weights, "bash", tmp_path, **environment)
    assert out.splitlines()[-1] == "Others there: mine"

    zoo, training = blocks("model_zoo", "python")
    assert "mask_rcnn_lesa_r50" in run(zoo, "python", tmp_path, **environment)

    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "output", "datasets", "tests")
    shutil.copytree(ROOT, source, ignore=ignore)
    run(wheel, "bash", source, PIP_TARGET=str(tmp_path / "site"), PIP_NO_DEPS="1")
    smaller = "'dataloader.train.dataset.names.num_images=8', 'dataloader.test.dataset.names.num_images=2', "
    training = training.replace('"train.max_iter=2"', smaller + '"train.max_iter=2"')
    run(training, "python", tmp_path, **environment | {"PYTHONPATH": str(tmp_path / "site")})
    assert (tmp_path / "output/two_steps/last_checkpoint").exists()
