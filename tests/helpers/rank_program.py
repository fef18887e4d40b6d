"""What a process of a group does in tests/engine/test_processes.py: ``rank_program.py CASE FOLDER``."""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import create_ddp_model
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from runs import TINY

from lesa_d2.config import load_config
from lesa_d2.engine import build_model, evaluate, launch
from lesa_d2.engine.folder import logging_to
from lesa_d2.engine.stopping import StopRequest
from lesa_d2.errors import DatasetError

CONFIG = ["quickstart_lesa", [*TINY, "train.device=cpu"]]


class SlowEvaluator(DatasetEvaluator):
    """Takes the main process longer than a collective operation may last; the other one is slow before."""

    def process(self, inputs, outputs):
        if not comm.is_main_process():
            time.sleep(4)

    def evaluate(self):
        comm.synchronize()  # as COCOEvaluator does
        if comm.is_main_process():
            time.sleep(4)
        return {"slow": {"one": 1.0}}


def evaluation(folder):
    """Evaluate on more, and on fewer images than there are processes; then slowly, and go on training."""
    torch.manual_seed(0)
    model = build_model(load_config(*CONFIG))
    results = {}
    for images in (1, 3):
        cfg = load_config(CONFIG[0], [*CONFIG[1], f"dataloader.test.dataset.names.num_images={images}"])
        cfg.dataloader.evaluator.output_dir = str(folder / f"{comm.get_world_size()}_{images}")
        results[images] = evaluate(cfg, model)
    if comm.get_world_size() > 1:
        cfg.dataloader.evaluator = {"_target_": SlowEvaluator}
        evaluate(cfg, model)
        steps(folder)
    if comm.is_main_process():
        (folder / f"{comm.get_world_size()}.json").write_text(json.dumps(results))


class SignalledEvaluator(DatasetEvaluator):
    """The second process gets a signal after its first batch; the first has one batch alone."""

    def process(self, inputs, outputs):
        if comm.get_rank() == 1:
            signal.raise_signal(signal.SIGUSR1)

    def evaluate(self):
        raise AssertionError("of an evaluation that was stopped")


def stopped_evaluation(folder):
    """One process is stopped in an evaluation, of which another has done its share."""
    cfg = load_config(CONFIG[0], [*CONFIG[1], "dataloader.test.dataset.names.num_images=3"])
    cfg.dataloader.test.batch_size = 1
    cfg.dataloader.evaluator = {"_target_": SignalledEvaluator}
    with StopRequest() as request:
        evaluate(cfg, build_model(cfg), request=request)


def steps(folder):
    """Train for some steps; the last collectives are those of the exchange of gradients."""
    step = create_ddp_model(torch.nn.Linear(2, 2), device_ids=None)
    for _ in range(5):
        step(torch.ones(1, 2)).sum().backward()


def failure(folder):
    """One process fails while the other waits for it."""
    with logging_to(str(folder)):
        comm.synchronize()
        if comm.get_rank() == 1:
            raise ZeroDivisionError("of the second")
        dist.all_reduce(torch.ones(1))


def bad_input(folder):
    """As a failure, by an error of the user's, that only one process sees."""
    with logging_to(str(folder)):
        comm.synchronize()
        if comm.get_rank() == 1:
            raise DatasetError("a file of the second")
        dist.all_reduce(torch.ones(1))


def hang(folder):
    """One process never comes."""
    if comm.get_rank() == 1:
        time.sleep(600)
    dist.all_reduce(torch.ones(1))


def main(args):
    globals()[args.case](args.folder)


def threads_of_gloo():
    """Count the threads of gloo; those that were joined are gone from /proc a moment later."""
    end = time.monotonic() + 5
    while True:
        names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm") if file.exists()]
        number = sum("gloo" in name for name in names)
        if not number or time.monotonic() > end:
            return number
        time.sleep(0.05)


if __name__ == "__main__":
    spawned = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    torch.cuda.device_count = lambda: 2
    arguments = argparse.Namespace(case=sys.argv[1], folder=Path(sys.argv[2]), **spawned)
    status = launch(main, arguments)
    # In one piece: torchrun's processes write unbuffered, and between each other's words.
    print(f"threads of gloo: {threads_of_gloo()}\n", end="")
    sys.exit(status)
