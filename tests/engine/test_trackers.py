"""Weights & Biases and MLflow, the programs themselves, writing files."""

import json
import os
import signal
import struct
import sys
import threading
import time

import pytest
from detectron2.utils.events import EventStorage
from runs import ROOT, tiny_options, train

from lesa_d2.engine import trackers
from lesa_d2.engine.trackers import MLflow

CONFIG = str(ROOT / "configs/quickstart_lesa.py")


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    return tmp_path


def run(folder, *options, flags=()):
    return train(["--config-file", CONFIG, *flags, *tiny_options(folder, "train.log_period=1", *options)])


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def records(file):
    """Yield the records of W&B's file: LevelDB's log format, after a header of 7 bytes."""
    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no header fits into what is left of this block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)  # after a checksum
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def sent_to_wandb(folder):
    """The values of each call, of every start of the run."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = [
        Record.FromString(data) for file in sorted(folder.glob("wandb/*/*.wandb")) for data in records(file)
    ]
    return [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]


def test_both_get_what_metrics_json_has_and_a_resumed_run_goes_on(surroundings):
    from mlflow import MlflowClient

    folder = surroundings / "run"
    assert run(folder, "train.max_iter=2", "train.trackers=[wandb,mlflow]") == 0
    first = json.loads((folder / "trackers.json").read_text())
    assert run(folder, "train.max_iter=3", "train.trackers=[wandb,mlflow]", flags=["--resume"]) == 0
    assert json.loads((folder / "trackers.json").read_text()) == first

    written = metrics_of(folder)
    losses = {entry["iteration"]: entry["total_loss"] for entry in written if "total_loss" in entry}
    assert sorted(losses) == [0, 1, 2]
    client = MlflowClient()
    at_mlflow = {
        metric.step: metric.value for metric in client.get_metric_history(first["mlflow"], "total_loss")
    }
    assert at_mlflow == pytest.approx(losses)
    found = client.get_run(first["mlflow"])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert float(found.data.params["optimizer.lr"]) > 0
    assert found.data.metrics["bbox/AP"] == pytest.approx(written[-1]["bbox/AP"], nan_ok=True)

    history = sent_to_wandb(folder)
    at_wandb = {entry["iteration"]: entry["total_loss"] for entry in history if "total_loss" in entry}
    assert at_wandb == pytest.approx(losses)
    assert any("bbox/AP" in entry for entry in history)


def test_an_error_ends_the_run_at_the_tracker_too(surroundings):
    from mlflow import MlflowClient

    folder = surroundings / "run"
    options = (
        "train.trackers=[mlflow]",
        "optimizer.lr=1e30",
        "train.max_iter=30",
        "train.clip_grad_norm=null",
    )
    assert run(folder, *options) != 0
    record = json.loads((folder / "trackers.json").read_text())
    assert MlflowClient().get_run(record["mlflow"]).info.status == "FAILED"


def test_a_tracker_that_fails_costs_no_step(surroundings, monkeypatch):
    def fail(*_args):
        raise ConnectionError("the server is away")

    monkeypatch.setattr(MLflow, "_send", fail)
    monkeypatch.setattr(MLflow, "_finish", fail)
    folder = surroundings / "run"
    assert run(folder, "train.max_iter=3", "train.trackers=[mlflow]") == 0
    log = (folder / "log.txt").read_text()
    assert log.count("MLflow did not take the values of step") == 1  # not one for each
    assert "MLflow did not take the end of the run: the server is away" in log
    assert (folder / "model_final.pth").is_file()


def test_a_server_that_does_not_answer_holds_nothing_up(surroundings, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(MLflow, "_send", lambda *_: answer.wait(300))
    monkeypatch.setattr(trackers, "PATIENCE", 1)
    folder = surroundings / "run"
    start = time.monotonic()
    assert run(folder, "train.max_iter=3", "train.trackers=[mlflow]") == 0
    assert time.monotonic() - start < 100
    answer.set()
    assert "MLflow has not taken all values after 1 seconds" in (folder / "log.txt").read_text()


def test_a_stopped_run_is_saved_before_its_tracker_is_told(surroundings, monkeypatch):
    from mlflow import MlflowClient

    folder, told = surroundings / "run", []
    finish = MLflow._finish

    def stop_at(self, values, step):
        os.kill(os.getpid(), signal.SIGTERM)

    def look(self, error):
        told.append(sorted(file.name for file in folder.glob("model_*.pth")))
        finish(self, error)

    monkeypatch.setattr(MLflow, "_send", stop_at)
    monkeypatch.setattr(MLflow, "_finish", look)
    options = ("train.trackers=[mlflow]", "train.max_iter=50", "train.eval_period=0")
    assert run(folder, *options) == 75
    assert len(told) == 1
    assert told[0]
    record = json.loads((folder / "trackers.json").read_text())
    assert MlflowClient().get_run(record["mlflow"]).info.status == "KILLED"


def test_a_failure_before_the_first_step_ends_the_run_there(surroundings):
    from mlflow import MlflowClient

    folder = surroundings / "run"
    (folder / "config.yaml").mkdir(parents=True)
    assert run(folder, "train.trackers=[mlflow]") != 0
    record = json.loads((folder / "trackers.json").read_text())
    assert MlflowClient().get_run(record["mlflow"]).info.status == "FAILED"


def test_a_second_tracker_that_cannot_start_ends_the_first(surroundings, monkeypatch, capsys):
    from mlflow import MlflowClient

    monkeypatch.setattr(trackers.WeightsAndBiases, "_start", lambda *_: 1 / 0)
    assert run(surroundings / "run", "train.trackers=[mlflow,wandb]") == 2
    assert "train.trackers: wandb cannot be started" in capsys.readouterr().err
    (found,) = MlflowClient().search_runs(["0"])
    assert found.info.status == "FAILED"


def test_names_that_mlflow_refuses_are_changed_and_none_is_lost(surroundings):
    from mlflow import MlflowClient

    names = [
        "nut (1)",
        "nut [1]",
        "cat/",
        "cat",
        "a/../b",
        "/x",
        "../../y",
        "実",
        ".",
        "long" * 100,
        "long" * 101,
    ]
    tracker = MLflow(surroundings, {"train.seed": 0}, "")
    with EventStorage(4) as storage:
        for value, name in enumerate(names):
            storage.put_scalar(f"bbox/AP-{name}" if name != "/x" else name, value)
        storage.put_scalar("bbox/AP", float("nan"))
        tracker.write()
    tracker.end(None)
    found = MlflowClient().get_run(tracker.identifier)
    assert found.info.status == "FINISHED"
    assert sorted(found.data.metrics.values())[: len(names)] == pytest.approx(range(len(names)))
    assert len(found.data.metrics) == len(names) + 1
    assert found.data.metrics["bbox/AP-nut _1_"] == 0


@pytest.mark.parametrize("content", ["{", "[1]", "null", '{"mlflow": 5}', '{"mlflow": ""}', "[" * 100000])
def test_a_broken_record_is_one_message(surroundings, content, capsys):
    folder = surroundings / "run"
    assert run(folder, "train.max_iter=1") == 0
    (folder / "trackers.json").write_text(content)
    options = ("train.max_iter=2", "train.trackers=[mlflow]")
    assert run(folder, *options, flags=["--resume"]) == 2
    assert "trackers.json" in capsys.readouterr().err
    assert (folder / "trackers.json").read_text() == content


def test_a_run_that_is_gone_at_the_tracker(surroundings, capsys):
    from mlflow import MlflowClient

    folder = surroundings / "run"
    assert run(folder, "train.max_iter=1", "train.trackers=[mlflow]") == 0
    MlflowClient().delete_run(json.loads((folder / "trackers.json").read_text())["mlflow"])
    capsys.readouterr()
    assert run(folder, "train.max_iter=2", "train.trackers=[mlflow]", flags=["--resume"]) == 2
    assert "trackers.json has run" in capsys.readouterr().err


def test_a_run_of_the_calling_program_is_another_one(surroundings, monkeypatch):
    import wandb

    monkeypatch.chdir(surroundings)
    own = wandb.init(dir=surroundings)
    try:
        assert run(surroundings / "run", "train.max_iter=1", "train.trackers=[wandb]") == 0
        assert json.loads((surroundings / "run/trackers.json").read_text())["wandb"] != own.id
        own.log({"still": "open"})
    finally:
        own.finish()


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "only_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not trackers._is_installed("only_a_folder")
    assert trackers._is_installed("wandb")


def test_a_missing_program_is_said_before_anything_is_removed(surroundings, monkeypatch, capsys):
    folder = surroundings / "run"
    assert run(folder, "train.max_iter=1") == 0
    before = (folder / "model_final.pth").read_bytes()
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run(folder, "train.trackers=[wandb]", flags=["--overwrite"]) == 2
    assert "pip install wandb" in capsys.readouterr().err
    assert (folder / "model_final.pth").read_bytes() == before


def test_a_tracker_that_cannot_start_is_one_message(surroundings, monkeypatch, capsys):
    folder = surroundings / "run"
    assert run(folder, "train.max_iter=1") == 0
    before = (folder / "model_final.pth").read_bytes()
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    assert run(folder, "train.trackers=[mlflow]", flags=["--overwrite"]) == 2
    assert "train.trackers: mlflow cannot be started: " in capsys.readouterr().err
    assert (folder / "model_final.pth").read_bytes() == before


def test_a_new_run_is_a_new_one_at_the_tracker(surroundings):
    folder = surroundings / "run"
    records = []
    for flags in ((), ["--overwrite"]):
        assert run(folder, "train.max_iter=1", "train.trackers=[mlflow]", flags=flags) == 0
        records.append((folder / "trackers.json").read_text())
    assert records[0] != records[1]
    assert run(folder, "train.max_iter=1", flags=["--overwrite"]) == 0
    assert not (folder / "trackers.json").exists()


@pytest.mark.parametrize("value", ["[tensorboard]", "wandb", "[wandb,wandb]", "null"])
def test_other_values_are_refused(surroundings, value, capsys):
    assert run(surroundings / "run", f"train.trackers={value}") == 2
    assert "train.trackers" in capsys.readouterr().err
