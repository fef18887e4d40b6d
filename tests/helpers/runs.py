"""Training runs small enough for a test: a few small pictures, a few iterations."""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from warm_python import program

from lesa_d2.cli import main
from lesa_d2.config import load_config
from lesa_d2.engine import build_model

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
CLASSIFIER = str(ROOT / "configs/quickstart_classifier.py")
TINY_CLASSIFIER = [
    "dataloader.train.mapper.transform.transforms.0.size=[32,32]",
    "dataloader.test.mapper.transform.transforms.0.size=[32,32]",
    "dataloader.train.total_batch_size=8",
    "model.backbone.image_size=32",
    "model.backbone.base_channels=8",
    "model.backbone.stem_channels=8",
    "model.backbone.num_heads=4",
    "model.backbone.blocks=[1,1,2,1]",
    "train.max_iter=4",
    "train.eval_period=4",
    "train.log_period=1",
    "optimizer.lr=0.001",
]
# Batch statistics would differ between one process and two.
EVAL_NORMS = [
    "model.backbone.bottom_up.norm=EvalBN",
    "model.backbone.norm=''",
    "model.roi_heads.box_head.conv_norm=''",
]


def initial_weights(file, config, *options):
    """Save the initial weights of a config's model; returns the override that starts from them.

    A start from nothing is refused for norms with stored statistics, which batches of any size share.
    """
    torch.save({"model": build_model(load_config(str(config), list(options))).state_dict()}, file)
    return f"train.init_checkpoint={file}"


def train(arguments):
    """Run ``lesa train`` in this process; returns the exit status."""
    return main(["train", *map(str, arguments)])


def pretrain(arguments):
    """Run ``lesa pretrain`` in this process; returns the exit status."""
    return main(["pretrain", *map(str, arguments)])


def lesa(*arguments):
    """Run ``lesa`` in this process; returns its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([*map(str, arguments)])
        except SystemExit as stop:  # argparse
            status = stop.code
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


def tiny_options(output_dir, *extra):
    return [*TINY, f"train.output_dir={output_dir}", *extra]


def weights(folder, file="model_final.pth"):
    return torch.load(folder / file, weights_only=True)["model"]


def losses(folder):
    """Total loss by iteration, from metrics.json."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}


def load_script(name):
    """The script ``name`` of projects/LESA as a module, which is not run."""
    return load_file(ROOT / f"projects/LESA/{name}.py")


def load_file(file):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(f"{file.stem}_file", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def train_net(*arguments, launcher=(), script=ROOT / "train_net.py", python=None):
    """Run train_net.py as a user does; returns the finished process with its output as text.

    The Python is the warm one that the tests share, unless ``python`` is given.
    """
    python = python or program()
    return subprocess.run(
        [python, *launcher, str(script), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
