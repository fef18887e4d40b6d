"""The operator of docs/own_operator.py, defined outside the package, does what those of the package do."""

import shutil

import numpy as np
import pytest
import torch
from generated_data import SIDE, shapes
from runs import ROOT, load_file, losses, train, weights

from lesa_d2.config import load_config, run_config
from lesa_d2.layers import find_operator, register_operator
from lesa_d2.layers.registry import OPERATORS
from lesa_d2.modeling import build_lesa_resnet
from lesa_d2.predictor import Predictor
from lesa_d2.testing import check_operator

FILE = ROOT / "docs/own_operator.py"
SMALL = [
    shapes("train"),
    shapes("val", 2),
    *(f"model.backbone.bottom_up.{key}" for key in ("base_channels=8", "stem_channels=8", "num_heads=4")),
    *("train.init_checkpoint=''", "model.backbone.bottom_up.norm=BN", "model.backbone.bottom_up.freeze_at=0"),
    f"model.backbone.bottom_up.image_size={SIDE}",
    f"dataloader.train.mapper.augmentations.0.shape=[{SIDE},{SIDE}]",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.roi_heads.num_classes=4",
    "model.roi_heads.batch_size_per_image=16",
    "model.proposal_generator.post_nms_topk=[30,20]",
    "train.max_iter=2",
    "train.eval_period=0",
    "train.log_period=1",
    "train.checkpointer.period=1",
]


def test_the_file_is_short_and_passes_the_contract():
    assert len(FILE.read_text().splitlines()) <= 30
    check_operator(load_file(FILE).GlobalContext)


def test_it_trains_resumes_and_predicts(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    options = ["--config-file", FILE, *SMALL, f"train.output_dir={tmp_path / 'run'}"]
    assert train(options) == 0
    state = weights(tmp_path / "run")
    assert "backbone.bottom_up.res4.22.conv2.context.weight" in state
    assert "backbone.bottom_up.res4.0.conv2.weight" in state  # the first block of res4 stays a convolution
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "run/model_0000000.pth", tmp_path / "again")
    (tmp_path / "again/last_checkpoint").write_text("model_0000000.pth")
    again = ["--resume", "--config-file", FILE, *SMALL, f"train.output_dir={tmp_path / 'again'}"]
    assert train(again) == 0
    assert list(losses(tmp_path / "again")) == [1]
    resumed = weights(tmp_path / "again")
    assert all(torch.equal(resumed[name], value) for name, value in state.items())
    saved = run_config(tmp_path / "run")
    assert saved.name == "config.py"  # the class is in the config file alone, which is the record
    predictor = Predictor(load_config(str(saved)))
    assert predictor.weights.endswith("model_final.pth")
    assert "instances" in predictor(np.zeros((40, 50, 3), np.uint8))


def test_an_operator_has_a_name_once_it_is_registered(monkeypatch):
    operator = load_file(FILE).GlobalContext
    monkeypatch.setitem(OPERATORS, "global_context", None)
    assert register_operator("global_context")(operator) is operator
    with pytest.raises(ValueError, match="'lesa' is an operator of lesa_d2"):
        register_operator("lesa")(operator)
    assert find_operator("global_context") is operator
    small = dict(base_channels=8, stem_channels=8, num_heads=4, image_size=SIDE)
    named, given = build_lesa_resnet("global_context", **small), build_lesa_resnet(operator, **small)
    assert named.state_dict().keys() == given.state_dict().keys()
