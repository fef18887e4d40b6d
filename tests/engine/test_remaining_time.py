"""The remaining time in the log of a run that others follow."""

import json

import pytest
from runs import CLASSIFIER, TINY_CLASSIFIER

from lesa_d2.engine import Classification, argument_parser, run


@pytest.mark.parametrize("later", [0, 5000])
def test_it_includes_what_comes_later(tmp_path, monkeypatch, later):
    monkeypatch.chdir(tmp_path)
    task = Classification()
    task.later = later
    options = [
        *TINY_CLASSIFIER,
        "dataloader.train.dataset.num_images=150",
        "dataloader.test.dataset.num_images=150",
    ]
    run(
        argument_parser(task).parse_args(["--config-file", CLASSIFIER, *options, "train.output_dir=out"]),
        task,
    )
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.json").read_text().splitlines()]
    assert "eta_seconds" not in next(line for line in lines if "accuracy/top1" in line)
    remaining = max(line["eta_seconds"] for line in lines if "eta_seconds" in line)
    step = next(line["time"] for line in reversed(lines) if "time" in line)
    assert 0.2 * later <= remaining / step <= 5 * later + 20
