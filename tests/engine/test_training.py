"""Whole runs: files, resuming, data parallelism, precision, averaging, evaluation."""

import json
import shutil

import pytest
import torch
from runs import EVAL_NORMS, ROOT, initial_weights, losses, tiny_options, train, train_net, weights

from lesa_d2.engine import load_trained
from lesa_d2.engine.launch import usable_processes
from lesa_d2.errors import CheckpointError

CONFIG = str(ROOT / "configs/quickstart_lesa.py")


def run(output_dir, *extra, flags=()):
    """Train in this process; returns the exit status."""
    arguments = ["--config-file", CONFIG, *flags, *tiny_options(output_dir, *extra)]
    return train(arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that saved after every second of its four iterations."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
        assert run(folder / "run", "train.checkpointer.period=2", "train.ema.enabled=True") == 0
        yield folder / "run"


def test_output_folder_holds_what_users_expect(finished):
    names = {path.name for path in finished.iterdir()}
    expected = {"config.yaml", "log.txt", "metrics.json", "model_final.pth", "last_checkpoint"}
    expected |= {"coco_instances_results.json", "model_best.pth", "model_ema_final.pth"}
    assert expected <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert len(losses(finished)) == 4


def test_start_report_says_what_matters(finished):
    log = (finished / "log.txt").read_text()
    for words in (
        "none: from scratch",
        "2 images a step = 1 process(es) x 1 micro-batch(es) x 2",
        "chosen for a batch of 4, not 2",
        "4: circle, triangle, square, star",
        "channel order  RGB",
        "(backend blockwise), on the CPU",
        "parameters",
    ):
        assert words in log


def test_saved_config_builds_the_same_model(finished, tmp_path):
    cfg, model = load_trained(finished)
    assert cfg.train.max_iter == 4
    saved = weights(finished, "model_ema_final.pth")  # what training evaluated
    torch.testing.assert_close({name: model.state_dict()[name] for name in saved}, saved)
    (tmp_path / "config.yaml").write_text((finished / "config.yaml").read_text())
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_trained(tmp_path)


def test_an_average_that_goes_on_no_longer_is_said(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    before = (folder / "model_ema_final.pth").read_bytes()
    words = "model_ema_final.pth is the average of earlier steps, and stays as it is"
    assert words not in (folder / "log.txt").read_text()
    assert run(folder, "train.ema.enabled=False", "train.max_iter=5", flags=["--resume"]) == 0
    assert words in (folder / "log.txt").read_text()
    assert (folder / "model_ema_final.pth").read_bytes() == before


def test_resumed_run_equals_the_uninterrupted_one_exactly(finished, tmp_path):
    interrupted = tmp_path / "run"
    interrupted.mkdir()
    shutil.copy(finished / "model_0000001.pth", interrupted)
    (interrupted / "last_checkpoint").write_text("model_0000001.pth")
    assert run(interrupted, "train.ema.enabled=True", flags=["--resume"]) == 0
    assert list(losses(interrupted)) == [2, 3]
    for file in ("model_final.pth", "model_ema_final.pth"):
        ours, theirs = weights(interrupted, file), weights(finished, file)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_last_checkpoint_is_a_complete_state(finished):
    """Neither the best weights nor the averaged ones, which are written after it."""
    assert (finished / "last_checkpoint").read_text() == "model_final.pth"


def test_best_weights_are_those_that_were_evaluated(finished):
    """The only evaluation was that of the average, at the end."""
    best, average = weights(finished, "model_best.pth"), weights(finished, "model_ema_final.pth")
    assert all(torch.equal(best[name], average[name]) for name in average)
    assert any(not torch.equal(best[name], value) for name, value in weights(finished).items())


def test_a_finished_run_can_be_extended(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/metrics.json").unlink()
    assert run(tmp_path / "run", "train.ema.enabled=True", "train.max_iter=6", flags=["--resume"]) == 0
    assert list(losses(tmp_path / "run")) == [4, 5]


def test_resuming_a_finished_run_only_evaluates(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/metrics.json").unlink()
    assert run(tmp_path / "run", "train.ema.enabled=True", flags=["--resume"]) == 0
    assert losses(tmp_path / "run") == {}
    ours, theirs = weights(tmp_path / "run"), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_eval_only_evaluates_what_training_evaluated(finished, tmp_path):
    """The average of the last checkpoint; with every detection counted, another model scores otherwise."""
    everything = "model.roi_heads.box_predictor.test_score_thresh=0.0"
    detections = {}
    for name, options in {
        "last": [],
        "ema": [f"train.init_checkpoint={finished / 'model_ema_final.pth'}"],
    }.items():
        folder = shutil.copytree(finished, tmp_path / name)
        assert run(folder, everything, *options, flags=["--eval-only"]) == 0
        detections[name] = json.loads((folder / "coco_instances_results.json").read_text())
    assert detections["last"]
    assert detections["last"] == detections["ema"]


def test_eval_only_leaves_the_config_alone(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    before = (folder / "config.yaml").read_text()
    assert run(folder, "train.log_period=7", flags=["--eval-only"]) == 0
    assert (folder / "config.yaml").read_text() == before
    assert "100.0% of the model (100.0% of the backbone, " in (folder / "log.txt").read_text()


def test_best_metric_is_remembered_across_a_resume(finished, tmp_path):
    """A best that no later evaluation reaches stays, with its weights."""
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "model_best.json").write_text('{"metric": 99.5, "iteration": 2, "name": "segm/AP"}')
    before = (folder / "model_best.pth").stat().st_mtime_ns
    assert run(folder, "train.ema.enabled=True", "train.max_iter=5", flags=["--resume"]) == 0
    assert (folder / "model_best.pth").stat().st_mtime_ns == before
    assert json.loads((folder / "model_best.json").read_text())["metric"] == 99.5


def test_start_from_weights_is_not_a_resume(finished, tmp_path, datasets):
    start = f"train.init_checkpoint={finished / 'model_final.pth'}"
    assert run(tmp_path / "run", start, "train.max_iter=1") == 0
    assert list(losses(tmp_path / "run")) == [0]
    assert "100.0% of the model" in (tmp_path / "run/log.txt").read_text()


def stored_norms(folder):
    """Options for norms whose statistics are stored, and initial weights to start from."""
    return [
        *EVAL_NORMS,
        initial_weights(folder / "start.pth", CONFIG, *tiny_options(folder), *EVAL_NORMS, "train.device=cpu"),
    ]


def test_accumulation_splits_the_batch(tmp_path, datasets):
    """Two micro-batches of one image step like one batch of two, up to the losses' normalisers."""
    for parts in (1, 2):
        assert run(tmp_path / str(parts), f"train.accumulate={parts}", *stored_norms(tmp_path)) == 0
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert list(one) == list(two)
    assert all(one[i] == pytest.approx(two[i], rel=0.1) for i in one)


def test_two_processes_equal_one_with_the_same_effective_batch(tmp_path, datasets):
    """Through torchrun, with the images of process and micro-batch (and their random numbers) the same."""
    assert run(tmp_path / "one", "train.accumulate=2", *stored_norms(tmp_path)) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = train_net(
        "--config-file", CONFIG, *tiny_options(tmp_path / "two", *stored_norms(tmp_path)), launcher=launcher
    )
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == [0, 1, 2, 3]
    assert all(one[i] == pytest.approx(two[i], rel=1e-5) for i in one)
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_workers_do_not_change_the_data(tmp_path, datasets):
    for workers in (0, 2):
        assert (
            run(tmp_path / str(workers), f"dataloader.train.num_workers={workers}", "train.max_iter=2") == 0
        )
    assert losses(tmp_path / "0") == losses(tmp_path / "2")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains(tmp_path, datasets, dtype):
    # convolutions in float16 are slow on the CPU
    assert run(tmp_path, "train.amp.enabled=True", f"train.amp.dtype={dtype}", "train.max_iter=1") == 0
    log = (tmp_path / "log.txt").read_text()
    assert f"precision      {dtype}" in log
    assert all(0 < loss < 20 for loss in losses(tmp_path).values())


@pytest.mark.parametrize(("asked", "available", "started"), [(1, 0, 1), (4, 0, 1), (4, 2, 2), (2, 4, 2)])
def test_processes_follow_the_gpus_there_are(monkeypatch, capsys, asked, available, started):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    assert usable_processes(asked) == started
    said = capsys.readouterr().err
    assert bool(said) == (asked > max(available, 1))
    assert ("one process on the CPU" in said) == (asked > 1 and not available)


def test_two_spawned_processes_train_and_report_errors_once(tmp_path, datasets):
    """What --num-gpus 2 starts, here on the CPU."""
    code = (
        "import sys, torch; torch.cuda.device_count = lambda: 2\n"
        "from lesa_d2.cli import main\n"
        "sys.exit(main(['train', *sys.argv[1:]]))\n"
    )
    script = tmp_path / "spawn.py"
    script.write_text("if __name__ == '__main__':\n    " + code.replace("\n", "\n    "))
    options = tiny_options(tmp_path / "run", "train.max_iter=1", *stored_norms(tmp_path))
    arguments = ["--config-file", CONFIG, "--num-gpus", "2", "--dist-url", "auto"]
    result = train_net(*arguments, *options, script=script)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 process(es)" in (tmp_path / "run/log.txt").read_text()
    result = train_net(*arguments, *options, "train.accumulate=7", script=script)
    assert result.returncode == 2
    assert result.stderr.count("] error: ") == 2  # every rank speaks
