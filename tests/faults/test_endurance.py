"""Memory stays flat over many steps and predictions, and the loader is faster than the steps.

``make endurance`` makes 2,000 steps and 1,000 predictions.
"""

import json
import statistics

import numpy as np
import pytest
from disturbed_runs import WEIGHTS
from forks import fork

from lesa_d2.config import load_any_config
from lesa_d2.engine.trainer import Trainer
from lesa_d2.predictor import Predictor

GROWTH = 0.05  # share of the memory


def resident():
    """Memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def check_flat(file):
    """Compare the second quarter of the figures with the last one."""
    figures = [float(line) for line in file.read_text().split()]
    quarter = len(figures) // 4
    before, after = (statistics.median(figures[i * quarter :][:quarter]) for i in (1, 3))
    assert after < (1 + GROWTH) * before, (before, after)
    return f"{before:.0f} MB in the second quarter, {after:.0f} MB in the last"


@pytest.mark.parametrize("kind", ["steps", "predictions"])
def test_memory_is_flat(kind, disturbed, tries, outcome):
    folder, file = disturbed.folder(f"memory_{kind}"), disturbed.root / f"memory_{kind}.txt"
    number = tries(24, 2000 if kind == "steps" else 1000)

    def note():
        with file.open("a") as opened:
            opened.write(f"{resident()}\n")

    def watch():
        step = Trainer.run_step
        Trainer.run_step = lambda self: (step(self), note())

    def predict():
        predictor = Predictor(load_any_config(str(disturbed.whole / "config.yaml")))
        rng = np.random.default_rng(0)
        for _ in range(number):
            predictor(rng.integers(0, 255, (64, 64, 3), np.uint8))
            note()

    if kind == "steps":
        options = (f"train.max_iter={number}", "train.checkpointer.period=500", "train.eval_period=0")
        run = disturbed.start(folder, before=watch, options=options)
    else:
        assert (disturbed.whole / WEIGHTS[0]).exists()
        run = fork(predict, f"{folder}.log")
    assert run.wait() == 0, run.text()[-3000:]
    outcome(f"memory over {kind}", str(number), f"flat within {GROWTH:.0%}", check_flat(file))


def test_the_loader_is_three_times_as_fast_as_the_steps(disturbed, outcome):
    """It reads in the same process, so that its time is part of the step's."""
    lines = [json.loads(line) for line in (disturbed.whole / "metrics.json").read_text().splitlines()]
    steps = [line for line in lines if "time" in line and "data_time" in line]
    time, of_data = (statistics.median(line[key] for line in steps) for key in ("time", "data_time"))
    assert time - of_data > 3 * of_data
    outcome(
        "loader beside the step",
        str(len(steps)),
        "at least 3 times as fast",
        f"{(time - of_data) / of_data:.0f} times",
    )
