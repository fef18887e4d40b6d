"""Table and curves of several runs."""

import json
import math

import cv2
import pytest
import torch

from lesa_d2.errors import LesaError
from lesa_d2.tools.analysis.comparison import (
    BOX_AP,
    MASK_AP,
    TOP1,
    Run,
    by_name,
    comparison_figure,
    comparison_table,
    evaluated,
    plot_curves,
    read_runs,
)
from lesa_d2.tools.analysis.repeated_runs import mark_finished, run_folder


def write_run(folder, name, seed, finals):
    place = run_folder(folder, name, seed)
    place.mkdir(parents=True)
    lines = [{"iteration": 19, "total_loss": 2.0}, {"iteration": 39, "total_loss": 1.0}]
    lines += [{"iteration": 20 * k, "accuracy/top1": value} for k, value in enumerate(finals, start=1)]
    lines += [{"iteration": 39, "train_top1": 70.0 + seed}]
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


def detector(name, seed, box, mask=None):
    """A run that is evaluated at its end; without masks where ``mask`` is missing."""
    curves = {"total_loss": {19: 4.0 + seed, 39: 2.0}, "bbox/AP": {40: box}}
    return Run(name, seed, 1000, curves if mask is None else {**curves, "segm/AP": {40: mask}})


@pytest.fixture
def detectors():
    htc = [detector("htc", seed, *finals) for seed, finals in enumerate([(10.0, 30.0), (13.0, 34.0)])]
    return [detector("boxes", 0, 50.0), *htc, detector("mask_rcnn", 0, 20.0, 33.0)]


def cells(table):
    return [line.replace(" ", "").strip("|").split("|") for line in table.splitlines()]


def test_finished_runs_are_read(folder):
    runs = read_runs(folder)
    assert [(run.name, run.seed) for run in runs] == [("conv", 0), ("lesa", 0), ("lesa", 1), ("lesa", 2)]
    curves = {
        "total_loss": {19: 2.0, 39: 1.0},
        "accuracy/top1": {20: 60.0, 40: 95.0},
        "train_top1": {39: 70.0},
    }
    assert runs[0] == Run("conv", 0, 12, curves)
    assert runs[3].final(TOP1) == 97.0
    assert math.isnan(runs[3].final(MASK_AP))


def test_table_by_hand(folder):
    head, _, conv, lesa = cells(comparison_table(read_runs(folder), "operator", [TOP1]))
    assert head == ["operator", "parameters", "top-1,mean", "standarddeviation", "eachseed"]
    assert conv == ["`conv`", "12", "95.0", "oneseed", "95.0"]  # the best mean first
    assert lesa == ["`lesa`", "12", "93.0", "3.6", "90.0,92.0,97.0"]  # deviations -3, -1, 4: sqrt(26 / 2)


def test_several_metrics_of_which_the_last_ranks(detectors):
    head, _, *rows = cells(comparison_table(detectors, "config", [BOX_AP, MASK_AP]))
    assert head[2::3] == ["boxAP,mean", "maskAP,mean"]
    assert rows == [
        ["`mask_rcnn`", "1,000", "20.0", "oneseed", "20.0", "33.0", "oneseed", "33.0"],
        # deviations ±1.5 and ±2: sqrt(4.5) and sqrt(8)
        ["`htc`", "1,000", "11.5", "2.1", "10.0,13.0", "32.0", "2.8", "30.0,34.0"],
        ["`boxes`", "1,000", "50.0", "oneseed", "50.0", "–", "oneseed", "–"],  # no masks: last
    ]


def test_a_seed_that_found_nothing_leaves_no_mean(detectors):
    """detectron2's AP of no detections is not a number."""
    runs = [*detectors, detector("nothing", 0, 1.0, math.nan), detector("nothing", 1, 1.0, 2.0)]
    *_, row = cells(comparison_table(runs, "config", [MASK_AP]))
    assert row == ["`nothing`", "1,000", "–", "–", "–,2.0"]
    assert [name for name, _ in by_name(runs, MASK_AP)] == ["mask_rcnn", "htc", "boxes", "nothing"]


def test_metrics_that_no_run_has(detectors):
    assert evaluated(detectors, [BOX_AP, MASK_AP]) == [BOX_AP, MASK_AP]
    assert evaluated(detectors[:1], [BOX_AP, MASK_AP]) == [BOX_AP]
    with pytest.raises(LesaError, match=r"no run's metrics\.json has accuracy/top1;"):
        evaluated(detectors, [TOP1])


def test_curves_are_drawn(folder):
    file = plot_curves(read_runs(folder), TOP1, folder / "curves.png")
    picture = cv2.imread(str(file))
    assert picture.shape[1] > 1000
    assert len({tuple(pixel) for pixel in picture[::3, ::3].reshape(-1, 3).tolist()}) > 20


def test_curves_by_hand(folder):
    loss, top1, detail = comparison_figure(read_runs(folder), TOP1).axes
    assert [line.get_label() for line in loss.lines] == ["conv", "lesa"]
    validation, training = [[[20, 60], [40, 95]], [[20, 51], [40, 93]]], [[[39, 70]], [[39, 71]]]
    for axes in (top1, detail):
        assert [line.get_xydata().tolist() for line in axes.lines] == validation + training
    shaded = top1.collections[1].get_paths()[0].vertices
    assert {tuple(point) for point in shaded.tolist()} == {(20, 50), (20, 52), (40, 90), (40, 97)}
    assert loss.get_legend().get_title().get_text() == "mean and range of 3 seeds"
    (outline,) = top1.patches  # from two thirds of 40 iterations on, where the seeds lie from 90 to 97
    assert (*detail.get_xlim(), *detail.get_ylim()) == pytest.approx((80 / 3, 40, 89.65, 97.35))
    assert outline.get_bbox().extents == pytest.approx((80 / 3, 89.65, 40, 97.35))


def test_one_evaluation_a_run_is_drawn_as_points(detectors):
    loss, mask_ap = comparison_figure(detectors[1:], MASK_AP).axes
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[19, 4], [39, 2]], [[19, 4.5], [39, 2]]]
    assert loss.get_legend().get_title().get_text() == "mean and range of 2 seeds"
    assert [text.get_text() for text in mask_ap.get_yticklabels()] == ["mask_rcnn", "htc"]
    seeds, means = mask_ap.lines[::2], mask_ap.lines[1::2]
    assert [line.get_xydata().tolist() for line in seeds] == [[[33, 0]], [[30, 1], [34, 1]]]
    assert [line.get_xydata().tolist() for line in means] == [[[33, 0]], [[32, 1]]]


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(LesaError, match="holds no finished run"):
        read_runs(tmp_path)
