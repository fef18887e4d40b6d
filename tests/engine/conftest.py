"""A training run small enough for a test: a few pictures of 64 px, a few iterations."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.utils.logger import setup_logger

ROOT = Path(__file__).resolve().parents[2]

TINY = [
    "dataloader.train.dataset.names.num_images=12",
    "dataloader.train.dataset.names.image_size=64",
    "dataloader.test.dataset.names.num_images=4",
    "dataloader.test.dataset.names.image_size=64",
    "dataloader.train.mapper.augmentations.0.shape=[64,64]",
    "dataloader.train.total_batch_size=2",
    "model.backbone.bottom_up.image_size=64",
    "model.backbone.bottom_up.base_channels=8",
    "model.backbone.bottom_up.num_heads=4",
    "model.backbone.bottom_up.blocks=[1,1,2,1]",
    "train.max_iter=4",
    "train.log_period=1",
]
# Batch statistics would differ between one process and two.
EVAL_NORMS = [
    "model.backbone.bottom_up.norm=EvalBN",
    "model.backbone.norm=''",
    "model.roi_heads.box_head.conv_norm=''",
]


@pytest.fixture(autouse=True)
def _fresh_loggers():
    """detectron2 keeps a handler for each output folder, on the standard output of its first user."""
    yield
    for name in ("detectron2", "fvcore", "lesa_d2"):
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """DETECTRON2_DATASETS in a folder of the test's."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def tiny_options(output_dir, *extra):
    return [*TINY, f"train.output_dir={output_dir}", *extra]


def train_net(*arguments, launcher=()):
    """Run train_net.py as a user does; returns the finished process with its output as text."""
    return subprocess.run(
        [sys.executable, *launcher, str(ROOT / "train_net.py"), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
