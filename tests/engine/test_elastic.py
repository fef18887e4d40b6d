"""Two agents of torchrun, as on two machines, and a process that is killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import CLASSIFIER, ROOT, TINY_CLASSIFIER, initial_weights, losses, pretrain

from lesa_d2.data import generate_shape_images

STEPS, PERIOD = 60, 5
FIRST = f"model_{PERIOD - 1:07d}.pth"


@pytest.fixture
def arguments(tmp_path):
    data = generate_shape_images(tmp_path / "data", num_images=150, image_size=32, seed=0)
    norms = "model.backbone.norm=EvalBN"  # statistics of batches would differ between one process and two
    start = initial_weights(tmp_path / "w.pth", CLASSIFIER, *TINY_CLASSIFIER, norms, "train.device=cpu")
    more = [
        f"train.max_iter={STEPS}",
        f"train.checkpointer.period={PERIOD}",
        "train.checkpointer.max_to_keep=20",
    ]
    given = ["--config-file", CLASSIFIER, "--data", str(data)]

    def arguments(folder, *options, flags=()):
        return [*given, *flags, *TINY_CLASSIFIER, norms, start, *more, "train.eval_period=0", *options,
                f"train.output_dir={folder}"]  # fmt: skip

    return arguments


def agent(port, arguments):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "test"),
        *("--max-restarts", "2", "--monitor-interval", "0.2"),
        *(str(ROOT / "projects/LESA/pretrain_imagenet.py"), *arguments),
    ]
    # else processes that start again find the addresses of those before, in the store that torchrun keeps
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def worker_of(process):
    """The process that an agent has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[-1])


def test_a_killed_process_costs_a_checkpoint_period_at_most(arguments, tmp_path):
    """Both agents start their processes again, and --resume goes on; the run equals one that nothing disturbed."""
    run = tmp_path / "run"
    assert pretrain(arguments(tmp_path / "one", "train.accumulate=2")) == 0
    run.mkdir()
    shutil.copy(tmp_path / "one" / FIRST, run)
    (run / "last_checkpoint").write_text(FIRST)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    agents = [agent(port, arguments(run, flags=["--resume"])) for _ in range(2)]
    saved = run / f"model_{3 * PERIOD - 1:07d}.pth"
    try:
        while not saved.exists():
            assert all(process.poll() is None for process in agents)
            time.sleep(0.005)
        os.kill(worker_of(agents[1]), signal.SIGKILL)
        printed = [process.communicate(timeout=200)[0] for process in agents]
    finally:
        for process in agents:
            process.terminate()  # its worker with it
    assert [process.returncode for process in agents] == [0, 0], printed
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    steps = [line["iteration"] for line in lines if "total_loss" in line]
    assert set(steps) == set(range(PERIOD, STEPS))
    assert (run / "log.txt").read_text().count("lesa_d2 INFO: Environment") == 2  # it was started again
    assert len(steps) - (STEPS - PERIOD) <= PERIOD
    before, ours = losses(tmp_path / "one"), losses(run)
    steps = range(PERIOD, 4 * PERIOD)
    different = [step for step in steps if ours[step] != pytest.approx(before[step], rel=0.05)]
    assert not different  # one process with two micro-batches, up to rounding, which grows
