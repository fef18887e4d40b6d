"""Several processes: errors, timeouts, waiting, and how they end; ``make starts`` starts many of them on busy cores."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from runs import ROOT

from lesa_d2.engine.processes import DEFAULT_TIMEOUT, TIMEOUT, collective_timeout
from lesa_d2.errors import STOPPED, ConfigError

PROGRAM = ROOT / "tests/helpers/rank_program.py"
STARTS = int(os.environ.get("LESA_STARTS", 1))
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(*arguments, launcher=TORCHRUN, **environment):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    return subprocess.run(
        [sys.executable, *launcher, str(PROGRAM), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_uneven_and_slow_evaluation_and_no_thread_left(tmp_path, monkeypatch):
    """A collective may last 3 s, and the processes wait for each other's evaluation for longer."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    result = run("evaluation", tmp_path, LESA_COLLECTIVE_TIMEOUT="3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("threads of gloo: 0") == 2
    from rank_program import evaluation

    evaluation(tmp_path)
    results = [json.loads((tmp_path / f"{world}.json").read_text()) for world in (1, 2)]
    assert results[0].keys() == results[1].keys() == {"1", "3"}
    for images in ("1", "3"):
        one, two = [
            json.loads((tmp_path / f"{world}_{images}/coco_instances_results.json").read_text())
            for world in (1, 2)
        ]
        assert [result["image_id"] for result in one] == [result["image_id"] for result in two] != []
        np.testing.assert_allclose([r["score"] for r in one], [r["score"] for r in two], rtol=1e-4)
        assert json.dumps(results[0][images]) == json.dumps(results[1][images])


@pytest.fixture
def busy_cores():
    """Let two endless programs run on every core."""
    programs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())
    ]
    yield
    for program in programs:
        program.kill()
        program.wait()


def test_processes_end_cleanly_on_busy_cores(tmp_path, busy_cores):
    """A thread of gloo that is late aborts a process that ends before it."""
    ends = [run("steps", tmp_path) for _ in range(STARTS)]
    assert [end.returncode for end in ends] == [0] * STARTS, [end.stderr[-1000:] for end in ends]
    assert all("terminate called" not in end.stderr for end in ends)
    assert [end.stdout.count("threads of gloo: 0") for end in ends] == [2] * STARTS, [e.stdout for e in ends]


@pytest.mark.parametrize(
    ("case", "words"), [("failure", "ZeroDivisionError: of the second"), ("bad_input", "a file")]
)
def test_the_error_of_one_rank_is_printed_and_logged_and_ends_all(tmp_path, case, words):
    start = time.monotonic()
    result = run(case, tmp_path)
    assert time.monotonic() - start < 100
    assert result.returncode == 1
    said = [line for line in result.stderr.splitlines() if line.startswith("[rank 1] ")]
    assert len(said) == 1
    assert words in result.stderr
    log = (tmp_path / "log.txt.rank1").read_text()
    assert log.count(words) == 1
    assert "[rank 1]" in log
    assert "root cause" in result.stderr.lower()  # torchrun's summary
    assert "error_file: <N/A>" not in result.stderr.rpartition("Root Cause")[2]


def test_a_signal_to_one_process_stops_the_evaluation_of_all(tmp_path):
    result = run("stopped_evaluation", tmp_path)
    assert result.returncode == 1, result.stderr
    assert "Stopped by SIGUSR1" in result.stderr
    assert "of an evaluation that was stopped" not in result.stderr
    assert f"exitcode  : {STOPPED} (" in result.stderr


def test_a_process_that_never_comes_ends_the_run_after_the_timeout(tmp_path):
    """Here by what --num-gpus 2 starts."""
    start = time.monotonic()
    result = run("hang", tmp_path, launcher=[], LESA_COLLECTIVE_TIMEOUT="2")
    assert time.monotonic() - start < 100
    assert result.returncode == 1
    assert "[rank 0] Traceback" in result.stderr
    assert "Timed out waiting 2000ms" in result.stderr


@pytest.mark.parametrize("given", ["", "no", "0", "-1", "nan", "1e9"])
def test_a_timeout_is_a_number_of_seconds(monkeypatch, given):
    monkeypatch.setenv(TIMEOUT, given)
    with pytest.raises(ConfigError, match=TIMEOUT):
        collective_timeout()
    monkeypatch.delenv(TIMEOUT)
    assert collective_timeout().total_seconds() == DEFAULT_TIMEOUT
