"""Processes of a group, each a copy of this one, which has imported everything."""

import os
from functools import partial

import torch
import torch.distributed as dist
from forks import fork


def in_processes(number, folder, work):
    """Run ``work(rank)`` in each process of a gloo group; returns what the ranks returned."""
    ranks = range(number)
    started = [fork(partial(_run, work, rank, number, folder), folder / f"log{rank}") for rank in ranks]
    assert [process.wait() for process in started] == [0] * number, "".join(p.text() for p in started)
    return [torch.load(folder / f"result{rank}", weights_only=False) for rank in ranks]


def _run(work, rank, number, folder):
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=number)
    torch.save(work(rank), folder / f"result{rank}")
    dist.barrier()
