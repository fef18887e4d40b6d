"""How often a training step waits for the device because of our files: once, for its losses."""

import pytest
import torch
from runs import CLASSIFIER, ROOT, TINY_CLASSIFIER, pretrain, tiny_options, train
from waits import CountWaits

from lesa_d2.engine.ema import EMAHook
from lesa_d2.engine.trainer import Trainer

READ = {"engine/metrics.py": 1}


@pytest.fixture
def steps(monkeypatch, datasets):
    """The waits of each step of a run: number by file, of our files other than those that read data."""
    counted = []

    def run_step(self):
        with CountWaits() as mode:
            original(self)
            for hook in self._hooks:
                if isinstance(hook, EMAHook):
                    hook.after_step()
        counted.append(by_file(mode))

    original = Trainer.run_step
    monkeypatch.setattr(Trainer, "run_step", run_step)
    monkeypatch.setattr("lesa_d2.engine.training.evaluate", lambda *args, **options: {})
    return counted


def by_file(mode):
    numbers = {}
    for place, number in mode.by("lesa_d2").items():
        file = place.partition(":")[0]
        if not file.startswith("data/"):  # of images on the host
            numbers[file] = numbers.get(file, 0) + number
    return numbers


@pytest.mark.parametrize("options", [[], ["train.accumulate=2", "train.clip_grad_norm=null"]], ids=str)
def test_mask_rcnn(steps, tmp_path, options):
    config = ROOT / "configs/quickstart_lesa.py"
    few = ["train.max_iter=3", "train.ema.enabled=True", *options]
    assert train(["--config-file", config, *tiny_options(tmp_path / "run", *few)]) == 0
    assert steps[1:] == [READ] * 2


def test_hybrid_task_cascade(steps, tmp_path, monkeypatch):
    """The label maps come from the loader, and are checked where they are: on the host."""
    from lesa_d2.modeling import rcnn

    def check(item, head):
        item["sem_seg"].is_on_host = True
        return original(item, head)

    original = rcnn._label_map
    monkeypatch.setattr(rcnn, "_label_map", check)
    config = ROOT / "configs/quickstart_htc.py"
    few = ["train.max_iter=3", "train.ema.enabled=True"]
    assert train(["--config-file", config, *tiny_options(tmp_path / "run", *few)]) == 0
    assert steps[1:] == [READ] * 2


def test_classifier(steps, tmp_path):
    few = ["train.max_iter=3", "train.ema.enabled=True", f"train.output_dir={tmp_path}/run"]
    few += [f"dataloader.{part}.dataset.num_images=150" for part in ("train", "test")]
    assert pretrain(["--config-file", CLASSIFIER, *TINY_CLASSIFIER, *few]) == 0
    assert steps[1:] == [READ] * 2


def test_the_count_itself():
    """Each of these waits once; what is computed on the host from one copy does not."""
    x = torch.arange(4.0)
    for wait in (
        lambda: x.sum().item(),
        lambda: bool(x.isfinite().all()),
        lambda: float(x[0]),
        lambda: x[x > 1],
        lambda: x.nonzero(),
        lambda: x.to("cpu").sum().item(),
        lambda: torch.tensor([1.0], device=x.device),
        lambda: torch.where(x > 1),
        lambda: x.repeat_interleave(torch.ones(4, dtype=torch.long)),
        lambda: x[torch.tensor(2) :],
    ):
        with CountWaits() as mode:
            wait()
        assert sum(mode.waits.values()) == 1
        assert {file for file, _, _ in mode.waits} == {__file__}
    with CountWaits() as mode:
        x[x > 1] = 0  # a mask is filled without its number
        (x * 2).where(x > 1, 0).index_select(0, torch.arange(2))
    assert not mode.waits
