"""A small training run that is killed, stopped, or has no room to write, and what must hold of it all the while."""

import json
import os
import shutil
from pathlib import Path

import torch
from forks import lesa
from runs import ROOT, tiny_options

from lesa_d2.checkpoint.reading import read_checkpoint
from lesa_d2.storage import UNFINISHED

STEPS, KEPT = 8, 2
OPTIONS = (
    f"train.max_iter={STEPS}",
    "train.checkpointer.period=2",
    f"train.checkpointer.max_to_keep={KEPT}",
    "train.eval_period=4",
    "train.ema.enabled=True",
    "train.best_metric=bbox/AP",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
    "train.device=cpu",
)
WEIGHTS = ("model_final.pth", "model_ema_final.pth", "model_best.pth")


class Disturbed:
    """Start the run in folders of ``root``, and compare their results with that of the undisturbed run."""

    def __init__(self, root):
        self.root = Path(root)
        os.environ["DETECTRON2_DATASETS"] = str(self.root / "datasets")
        self.whole = self.root / "whole"
        assert self.start(self.whole).wait() == 0, (self.root / "whole.log").read_text()

    def folder(self, name):
        """A folder that no other run has."""
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def start(self, folder, *flags, before=lambda: None, options=(), log=None):
        config = ROOT / "configs/quickstart_lesa.py"
        arguments = ["train", "--config-file", config, *flags, *tiny_options(folder, *OPTIONS, *options)]
        return lesa(*arguments, log=log or f"{folder}.log", before=before)

    def finish(self, folder):
        """Resume until the end, and compare."""
        assert self.start(folder, "--resume").wait() == 0, Path(f"{folder}.log").read_text()[-3000:]
        self.check_result(folder)

    def check_weights(self, folder, names):
        for name in names:
            ours, theirs = (
                read_checkpoint(folder / name)["model"],
                read_checkpoint(self.whole / name)["model"],
            )
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name

    def check_result(self, folder):
        self.check_weights(folder, WEIGHTS)
        ours, theirs = (json.loads((f / "model_best.json").read_text()) for f in (folder, self.whole))
        assert ours == theirs
        assert not list(folder.glob(".unfinished-*"))
        assert len(list(folder.glob("model_0*.pth"))) == KEPT


def check_files(folder):
    """Check, at any moment, that what a reader may open is whole, and that there is not too much of it."""
    files = list(Path(folder).glob("model_*.pth"))
    for file in files:
        read_checkpoint(file)
    for file in Path(folder).glob("*.json"):
        # The metrics grow by whole lines, the last of which may be cut; what is unfinished has no name yet.
        if file.name != "metrics.json" and not file.name.startswith(UNFINISHED):
            json.loads(file.read_text())
    last = Path(folder) / "last_checkpoint"
    if last.exists():
        assert (Path(folder) / last.read_text()).is_file()
    assert len(files) <= KEPT + 1 + len(WEIGHTS), sorted(file.name for file in files)
