"""Table and curves of several runs."""

import json

import cv2
import pytest
import torch

from lesa_d2.analysis.comparison import (
    Run,
    by_operator,
    comparison_table,
    is_finished,
    mark_finished,
    plot_curves,
    read_runs,
    run_folder,
)
from lesa_d2.errors import LesaError


def write_run(folder, operator, seed, finals):
    place = run_folder(folder, operator, seed)
    place.mkdir(parents=True)
    lines = [{"iteration": 19, "total_loss": 2.0}, {"iteration": 39, "total_loss": 1.0}]
    lines += [{"iteration": 20 * k, "accuracy/top1": value} for k, value in enumerate(finals, start=1)]
    (place / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    weights = {
        "w": torch.ones(3, 4),
        "norm.running_mean": torch.ones(5),
        "norm.num_batches_tracked": torch.ones(()),
    }
    torch.save({"model": weights}, place / "model_final.pth")
    mark_finished(place)


@pytest.fixture
def folder(tmp_path):
    for seed, final in enumerate((90.0, 92.0, 97.0)):
        write_run(tmp_path, "lesa", seed, [50.0 + seed, final])
    write_run(tmp_path, "conv", 0, [60.0, 95.0])
    (tmp_path / "conv/seed_1").mkdir()  # still running
    (tmp_path / "conv/seed_1/metrics.json").write_text("")
    torch.save({"model": {}}, tmp_path / "conv/seed_1/model_final.pth")  # not evaluated yet
    return tmp_path


def test_finished_runs_are_read(folder):
    runs = read_runs(folder)
    assert [(run.operator, run.seed) for run in runs] == [("conv", 0), ("lesa", 0), ("lesa", 1), ("lesa", 2)]
    assert runs[0] == Run("conv", 0, 12, {20: 60.0, 40: 95.0}, {19: 2.0, 39: 1.0})
    assert runs[3].final == 97.0
    assert not is_finished(folder / "conv/seed_1")


def test_table_by_hand(folder):
    table = comparison_table(read_runs(folder))
    conv, lesa = (line.replace(" ", "") for line in table.splitlines()[2:])
    assert conv == "|`conv`|12|95.0|oneseed|95.0|"  # the best mean first
    assert lesa == "|`lesa`|12|93.0|3.6|90.0,92.0,97.0|"  # deviations -3, -1, 4: sqrt(26 / 2)
    assert [name for name, _ in by_operator(read_runs(folder))] == ["conv", "lesa"]


def test_curves_are_drawn(folder):
    file = plot_curves(read_runs(folder), folder / "curves.png")
    picture = cv2.imread(str(file))
    assert picture.shape[1] > 1000
    assert len({tuple(pixel) for pixel in picture[::3, ::3].reshape(-1, 3).tolist()}) > 20


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(LesaError, match="holds no finished run"):
        read_runs(tmp_path)
