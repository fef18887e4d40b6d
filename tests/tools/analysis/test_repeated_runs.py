"""Running ``lesa`` several times; in its place is a script that notes its arguments."""

import json
import sys
from dataclasses import replace

import pytest

from lesa_d2.errors import LesaError
from lesa_d2.tools.analysis.repeated_runs import RepeatedRuns, is_finished, run_folder

SCRIPT = f"""#!{sys.executable}
import os, sys
from pathlib import Path
module, command, resume, *options = sys.argv[2:]  # after -m
assert (module, command, resume) == ("lesa_d2.cli", "train", "--resume")
arguments = dict(item.split("=") for item in options)
if arguments["variant"] == arguments.get("broken"):
    sys.exit("no such variant")
with open(Path(arguments["train.output_dir"]) / "log.txt", "a") as log:
    print(*options, os.environ["OMP_NUM_THREADS"], file=log)
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two trainings, two seeds each."""
    script = tmp_path / "python"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    commands = {name: ["train", f"variant={name}"] for name in ("a", "b")}
    return RepeatedRuns(tmp_path / "runs", commands, {"config": "one.py", "overrides": []}, seeds=2, jobs=2)


def logs(runs):
    return {run: (run_folder(runs.folder, *run) / "log.txt").read_text() for run in runs.wanted()}


def test_every_seed_of_every_training_once(runs, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert runs.wanted() == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    runs.train()
    first = logs(runs)
    assert first["b", 1] == f"variant=b train.seed=1 train.output_dir={runs.folder / 'b/seed_1'} 3\n"
    (runs.folder / "a/seed_1/finished").unlink()  # was interrupted
    runs.train()
    assert logs(runs) == {**first, ("a", 1): 2 * first["a", 1]}


def test_a_run_that_fails(runs):
    broken = {name: [*command, "broken=b"] for name, command in runs.commands.items()}
    with pytest.raises(LesaError, match="b, seed 0 failed:\nno such variant"):
        replace(runs, commands=broken, seeds=20, jobs=1).train()
    assert is_finished(runs.folder / "a/seed_0")
    assert not is_finished(runs.folder / "b/seed_0")
    assert not (runs.folder / "b/seed_19").exists()  # is not started any more


def test_a_folder_holds_runs_of_one_value_of_each_setting(runs):
    runs.keep_settings()
    runs.keep_settings()
    replace(runs, settings={"overrides": [], "another": 1}).keep_settings()
    found = json.loads((runs.folder / "settings.json").read_text())
    assert found == {"config": "one.py", "overrides": [], "another": 1}
    other = replace(runs, settings={"config": "two.py", "overrides": []})
    with pytest.raises(
        LesaError, match=r"of \{'config': 'one.py'\}, not of \{'config': 'two.py'\}; choose an"
    ):
        other.keep_settings()
    assert json.loads((runs.folder / "settings.json").read_text()) == found


def test_a_folder_that_cannot_be_made(runs):
    (runs.folder.parent / "file").touch()
    with pytest.raises(LesaError, match="--output="):
        replace(runs, folder=runs.folder.parent / "file").keep_settings()
