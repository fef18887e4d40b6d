"""The quick start's own arguments, folders and table; the trainings are replaced by what they return."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
from runs import ROOT
from torch import nn

from lesa_d2.engine import Classification
from lesa_d2.errors import LesaError

AP = {"AP": 50.0, "AP50": 90.0}


@pytest.fixture
def quickstart(monkeypatch, tmp_path):
    """The script as a function of its arguments; ``runs`` are (kind, overrides, later) of the trainings."""
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "projects/LESA/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    runs = []

    def run(args, task):
        kind = "classifier" if isinstance(task, Classification) else "detector"
        settings = dict(override.split("=", 1) for override in args.opts)
        runs.append((kind, settings, task.later))
        (tmp_path / settings["train.output_dir"]).mkdir(parents=True, exist_ok=True)
        return {"bbox": AP, "segm": AP}

    trained = SimpleNamespace(train=SimpleNamespace(max_iter=1100)), nn.Linear(2, 3)
    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "load_trained", lambda folder: trained)

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["quickstart.py", *arguments])
        runs.clear()
        module.train_all(module.parse_args())
        return list(runs)

    return start


def table_rows(folder):
    lines = (folder / "output/quickstart/table.md").read_text().splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_seeds_reach_both_stages(quickstart, tmp_path):
    runs = quickstart("--seeds", "2")
    assert [(kind, settings["train.seed"]) for kind, settings, _ in runs] == [
        ("classifier", "0"),
        ("detector", "0"),
        ("classifier", "1"),
        ("detector", "1"),
    ]
    assert [settings["train.output_dir"] for _, settings, _ in runs] == [
        "output/quickstart/classifier",
        "output/quickstart/lesa",
        "output/quickstart/seed_1/classifier",
        "output/quickstart/seed_1/lesa",
    ]
    assert runs[3][1]["train.init_checkpoint"] == "output/quickstart/seed_1/classifier/model_final.pth"
    (row,) = table_rows(tmp_path)
    assert row[:5] == ["lesa", "9", "1100", "2", "50.0 ± 0.0"]


def test_the_remaining_time_is_that_of_all_stages(quickstart):
    (_, _, one), (_, _, last) = quickstart()
    assert 1100 < one < 10 * 1100
    assert 0 < last < 300
    (_, _, first), (_, _, second), *_ = quickstart("--seeds", "2")
    assert first > 2 * one
    assert second > 1100 + last


def test_a_seed_that_is_complete_is_left_out(quickstart, tmp_path):
    quickstart("--seeds", "2")
    (tmp_path / "output/quickstart/seed_1/lesa/result.json").unlink()
    runs = quickstart("--seeds", "2", "--resume")
    assert {settings["train.seed"] for _, settings, _ in runs} == {"1"}


def test_a_run_of_other_settings_is_not_continued(quickstart, tmp_path):
    quickstart("--from-scratch", "optimizer.lr=0.1")
    with pytest.raises(
        LesaError, match=r"holds a run of lesa \(from scratch, optimizer.lr=0.1\), not of lesa;"
    ):
        quickstart("--seeds", "2", "--resume")


def test_other_settings_have_a_row_of_their_own(quickstart, tmp_path):
    quickstart("--seeds", "2")
    (run,) = quickstart("--from-scratch")
    assert "train.init_checkpoint" not in run[1]
    assert [row[0] for row in table_rows(tmp_path)] == ["lesa", "lesa (from scratch)"]


def test_a_new_run_removes_the_result_of_the_last(quickstart, tmp_path, monkeypatch):
    quickstart()
    result = tmp_path / "output/quickstart/lesa/result.json"
    written = result.read_text()
    quickstart("--eval-only")
    assert result.read_text() == written
    monkeypatch.delitem(AP, "AP")
    with pytest.raises(KeyError):  # as if it were killed
        quickstart()
    assert not result.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--seeds", "2", "train.seed=1"), "neither --eval-only nor train.seed"),
        (("--seeds", "2", "--eval-only"), "neither --eval-only nor train.seed"),
        (("train.output_dir=x",), "use train_net.py"),
    ],
)
def test_arguments_that_do_not_fit(quickstart, capsys, arguments, message):
    with pytest.raises(SystemExit):
        quickstart(*arguments)
    assert message in capsys.readouterr().err
