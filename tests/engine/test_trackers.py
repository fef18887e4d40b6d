"""Weights & Biases and MLflow, the programs themselves, writing files."""

import json
import struct
import sys

import pytest
from runs import ROOT, tiny_options, train

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
    import mlflow

    def fail(*_args, **_kwargs):
        raise ConnectionError("the server is away")

    monkeypatch.setattr(mlflow, "log_metrics", fail)
    monkeypatch.setattr(MLflow, "_finish", fail)
    folder = surroundings / "run"
    assert run(folder, "train.max_iter=1", "train.trackers=[mlflow]") == 0
    log = (folder / "log.txt").read_text()
    assert "MLflow did not take the values of step 0: the server is away" in log
    assert "MLflow was not told of the end of the run" in log
    assert (folder / "model_final.pth").is_file()


def test_names_that_mlflow_refuses_are_changed(surroundings):
    from detectron2.utils.events import EventStorage
    from mlflow import MlflowClient

    tracker = MLflow(surroundings, {"train.seed": 0}, None)
    with EventStorage(4) as storage:
        storage.put_scalar("bbox/AP-nut (1)/", 2.5)
        storage.put_scalar("bbox/AP-実", float("nan"))
        tracker.write()
    sent = MlflowClient().get_run(tracker.identifier).data.metrics
    assert sent["bbox/AP-nut _1_"] == 2.5
    assert "bbox/AP-実" in sent


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
