"""The record of the best weights, as it is read when a run is continued."""

import json

import pytest
from torch import nn

from lesa_d2.engine.hooks import Best

NO_VALUE = (None, -1, -1)


def read(folder, caplog, metric="bbox/AP"):
    """The value, its step and the step that was evaluated last; and the warnings."""
    best = Best(nn.Linear(1, 1), str(folder), metric)
    caplog.clear()
    with caplog.at_level("WARNING", "lesa_d2"):
        best.read()
    return (best.value, best.step, best.evaluated), caplog.text


def test_a_record_without_a_value_is_one(tmp_path, caplog):
    """As after an evaluation whose metric is not a number."""
    Best(nn.Linear(1, 1), str(tmp_path), "bbox/AP").update({"bbox/AP": float("nan")}, 3)
    assert read(tmp_path, caplog) == ((None, -1, 3), "")


def test_a_record_is_of_its_metric(tmp_path, caplog):
    Best(nn.Linear(1, 1), str(tmp_path), "bbox/AP").update({"bbox/AP": 40.0}, 3)
    assert read(tmp_path, caplog) == ((40.0, 3, 3), "")
    values, warning = read(tmp_path, caplog, "segm/AP")
    assert values == NO_VALUE
    assert "model_best.json is of bbox/AP: the best segm/AP so far is not known" in warning


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "40"])
def test_a_value_that_nothing_beats_is_none(tmp_path, caplog, value):
    record = {"metric": value, "iteration": 3, "name": "bbox/AP", "evaluated": 3}
    (tmp_path / "model_best.json").write_text(json.dumps(record))
    values, warning = read(tmp_path, caplog)
    assert values == NO_VALUE
    assert "cannot be read" in warning
