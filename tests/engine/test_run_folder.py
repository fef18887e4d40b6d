"""The folder of a run that holds one already."""

import os
import shutil

import pytest
import torch
from forks import drop_privileges, lesa
from runs import ROOT, tiny_options, train, weights

from lesa_d2.checkpoint.reading import read_checkpoint
from lesa_d2.engine import Trainer

CONFIG = str(ROOT / "configs/quickstart_lesa.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
        assert run(folder / "run", "train.best_metric=bbox/AP", "train.checkpointer.period=1") == 0
        yield folder / "run"


def run(folder, *extra, flags=()):
    return train(["--config-file", CONFIG, *flags, *tiny_options(folder, *extra)])


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_second_run_is_refused_and_changes_nothing(finished, capsys):
    before = content(finished)
    assert run(finished, "train.seed=1") == 2
    text = capsys.readouterr().err
    for words in ("holds a run (model_final.pth)", "--resume", "--overwrite", "train.output_dir"):
        assert words in text
    assert content(finished) == before


def test_overwrite_leaves_nothing_of_the_first(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "mine.pth").write_text("mine")
    assert run(folder, "train.seed=1", "train.max_iter=2", flags=["--overwrite"]) == 0
    names = {file.name for file in folder.glob("m*.pth")}
    assert names == {"mine.pth", "model_final.pth", "model_ema_final.pth", "model_best.pth"}
    assert len((folder / "metrics.json").read_text().splitlines()) <= 3
    assert any(not torch.equal(value, weights(finished)[name]) for name, value in weights(folder).items())


def test_overwrite_removes_nothing_before_the_start_is_sure(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    before = content(folder)
    assert run(folder, "train.init_checkpoint=nowhere.pth", flags=["--overwrite"]) == 2
    after = content(folder)
    del before["log.txt"], after["log.txt"]
    assert {name: after[name] for name in before} == before


def test_resume_in_an_empty_folder_starts_anew(finished, tmp_path):
    assert run(tmp_path / "run", "train.max_iter=1", flags=["--resume"]) == 0
    assert "holds no checkpoint, so that training starts anew" in (tmp_path / "run/log.txt").read_text()


def test_resume_says_which_settings_are_others(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "log.txt").unlink()
    same = ("train.best_metric=bbox/AP", "train.checkpointer.period=1")
    assert run(folder, *same, flags=["--resume"]) == 0
    assert "with other settings" not in (folder / "log.txt").read_text()
    assert run(folder, *same, "train.log_period=7", "optimizer.weight_decay=0.5", flags=["--resume"]) == 0
    text = (folder / "log.txt").read_text()
    line = next(line for line in text.splitlines() if "continues the run with other settings" in line)
    named = set(line.partition("settings: ")[2].split(", "))
    assert named == {"train.log_period=7", "optimizer.weight_decay=0.5"}


def test_resume_runs_no_config_of_the_folder_and_says_what_it_cannot_compare(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "log.txt").unlink()
    (folder / "config.yaml").write_text("a: [1")
    (folder / "config.py").write_text("raise SystemExit(0)")
    assert run(folder, flags=["--resume"]) == 0
    assert "which settings are others than before cannot be told: " in (folder / "log.txt").read_text()


def test_other_settings_are_told_in_short(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "log.txt").unlink()
    names = ",".join(f"{letter}{'x' * 300}" for letter in "abcd")
    assert run(folder, f"train.class_names=[{names}]", flags=["--resume"]) == 0
    text = (folder / "log.txt").read_text()
    line = next(line for line in text.splitlines() if "continues the run with other settings" in line)
    assert len(line) < 500


def test_resume_removes_no_weights_of_a_run_whose_checkpoints_are_gone(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "run")
    for file in (folder / "last_checkpoint", folder / "model_final.pth", *folder.glob("model_0*.pth")):
        file.unlink()
    before = content(folder)
    for flags in ([], ["--resume"]):
        assert run(folder, flags=flags) == 2
        text = capsys.readouterr().err
        assert (
            "holds a run (model_ema_final.pth): no checkpoint of it is left to continue, --overwrite" in text
        )
        assert {**content(folder), "log.txt": before["log.txt"]} == before
    assert run(folder, "train.max_iter=1", flags=["--resume", "--overwrite"]) == 0


def test_best_weights_have_a_checkpoint_beside_them(finished, tmp_path):
    """A run that is killed after its first evaluation can be continued."""
    options = ("train.best_metric=bbox/AP", "train.eval_period=1", "train.checkpointer.period=100")
    score = "model.roi_heads.box_predictor.test_score_thresh=0.0"  # else AP is not a number
    arguments = [
        "--config-file",
        CONFIG,
        *tiny_options(tmp_path / "run", *options, score, "train.device=cpu"),
    ]

    def killed_in_the_second_step():
        step = Trainer.run_step
        Trainer.run_step = lambda self: os._exit(9) if self.iter == 1 else step(self)

    log = tmp_path / "log"
    assert lesa("train", *arguments, before=killed_in_the_second_step, log=log).wait() == 9, log.read_text()
    names = {file.name for file in (tmp_path / "run").glob("model_*.pth")}
    assert names == {"model_best.pth", "model_0000000.pth"}


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--overwrite"], ["--eval-only"]])
@pytest.mark.parametrize("place", ["", "inside"])
def test_a_folder_without_permission(tmp_path, datasets, flags, place):
    locked = tmp_path / "locked"
    (locked / "inside").mkdir(parents=True)
    locked.chmod(0)
    arguments = ["--config-file", CONFIG, *flags, *tiny_options(locked / place, "train.device=cpu")]
    log = tmp_path / "log"
    status = lesa("train", *arguments, before=drop_privileges, log=log).wait()
    locked.chmod(0o700)
    text = log.read_text()
    assert (status, text.count("error: "), text.count("Traceback")) == (2, 1, 0), text
    assert f"{locked}" in text
    assert "Permission denied" in text
    assert "There is no checkpoint" not in text


def test_a_checkpoint_without_permission_is_passed_over(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "model_final.pth").chmod(0)
    (folder / "last_checkpoint").write_bytes(b"\xff")
    arguments = ["--config-file", CONFIG, "--resume", *tiny_options(folder, "train.device=cpu")]
    assert lesa("train", *arguments, before=drop_privileges, log=tmp_path / "log").wait() == 0
    text = (tmp_path / "log").read_text()
    assert "model_final.pth' cannot be read: Permission denied" in text
    assert "model_0000003.pth, the newest checkpoint that can be read" in text
    assert text.count("last_checkpoint cannot be read") == 1
    assert "Traceback" not in text


def test_a_run_that_lost_its_final_checkpoint_gets_one(finished, tmp_path):
    """It was killed between the last periodic checkpoint and the final one."""
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    assert run(folder, flags=["--resume"]) == 0
    ours, theirs = (read_checkpoint(f / "model_final.pth") for f in (folder, finished))
    assert ours["iteration"] == theirs["iteration"] == ours["trainer"]["iteration"] == 3
    assert all(torch.equal(ours["model"][name], value) for name, value in theirs["model"].items())


def test_an_average_that_begins_at_a_resume_begins_with_the_model(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    for file in ("model_final.pth", "model_0000003.pth"):
        state = read_checkpoint(folder / file)
        del state["ema"]
        torch.save(state, folder / file)
    assert run(folder, flags=["--resume"]) == 0
    model, average = weights(folder), weights(folder, "model_ema_final.pth")
    assert all(torch.equal(model[name], value) for name, value in average.items())


def test_a_failed_resume_leaves_the_average(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    state = read_checkpoint(folder / "model_final.pth")
    del state["trainer"]["optimizer"]
    torch.save(state, folder / "model_final.pth")
    before = (folder / "model_ema_final.pth").read_bytes()
    assert run(folder, "train.max_iter=6", flags=["--resume"]) == 2
    assert (folder / "model_ema_final.pth").read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metric": "x", "iteration": 1}', "null"])
def test_a_record_of_the_best_that_cannot_be_read(finished, tmp_path, text):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "model_best.json").write_text(text)
    assert run(folder, "train.best_metric=bbox/AP", flags=["--resume"]) == 0
    assert "model_best.json cannot be read" in (folder / "log.txt").read_text()


def test_no_more_checkpoints_than_asked_for(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    options = ("train.max_iter=8", "train.checkpointer.period=1", "train.checkpointer.max_to_keep=2")
    assert run(folder, *options, flags=["--resume"]) == 0
    assert sorted(file.name for file in folder.glob("model_0*.pth")) == [
        "model_0000006.pth",
        "model_0000007.pth",
    ]


def test_checkpoints_by_the_clock(finished, tmp_path):
    options = ("train.checkpointer.period=1000", "train.checkpointer.minutes=1e-9", "train.max_iter=2")
    assert run(tmp_path / "run", *options) == 0
    assert (tmp_path / "run/model_0000000.pth").exists()
