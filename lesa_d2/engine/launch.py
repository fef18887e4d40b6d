"""Start of the processes: one, several on one machine or on many, or those that torchrun has started."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from ..errors import exit_status
from .task import Task

OVERRIDE = re.compile(r"\+?[A-Za-z_]\w*(\.\w+)+=")
Main = Callable[[argparse.Namespace], object]


def argument_parser(task: Task) -> argparse.ArgumentParser:
    """Return a parser of detectron2's arguments and those of the task."""
    parser = default_argument_parser(epilog=task.examples)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the run that is in train.output_dir; else it is refused",
    )
    task.add_arguments(parser)
    return parser


def separate_overrides(args: argparse.Namespace, *lists: list[str]) -> None:
    """Move ``section.key=value`` from lists to ``args.opts``: argparse adds overrides to the list before them."""
    for given in lists:
        overrides = [item for item in given if OVERRIDE.match(item) and not os.path.exists(item)]
        args.opts += overrides
        given[:] = [item for item in given if item not in overrides]


def launch(main: Main, args: argparse.Namespace) -> int:
    """Run ``main(args)`` in the processes that the arguments or torchrun ask for, and return the exit status.

    Every other process prints its own errors.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _run_under_torchrun(main, args)
    processes = usable_processes(args.num_gpus)
    if processes * args.num_machines == 1:
        main(args)
        return 0
    try:
        detectron2_launch(
            _Worker(main), processes, args.num_machines, args.machine_rank, args.dist_url, args=(args,)
        )
    except torch.multiprocessing.ProcessExitedException as error:
        return error.exit_code or 1
    return 0


def usable_processes(num_gpus: int) -> int:
    """Return the number of processes to start on this machine: one for each GPU, or one on the CPU without a GPU."""
    available = torch.cuda.device_count()
    if num_gpus > max(available, 1):
        there = f"{available} GPU(s)" if available else "No GPU"
        where = f"on {available} GPU(s)" if available else "one process on the CPU"
        print(f"{there} found instead of {num_gpus}: running {where}.", file=sys.stderr)
    return max(1, min(num_gpus, available))


class _Worker:
    """Run ``main`` in a spawned process, and end it with the exit status for an error of the user."""

    def __init__(self, main: Main) -> None:
        self.main = main

    def __call__(self, args: argparse.Namespace) -> None:
        status = exit_status(partial(_without_result, self.main, args))
        if status:
            sys.exit(status)


def _without_result(main: Main, args: argparse.Namespace) -> None:
    main(args)


def _run_under_torchrun(main: Main, args: argparse.Namespace) -> int:
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        comm.create_local_process_group(local_size)
        return exit_status(partial(_without_result, main, args))
    finally:
        dist.destroy_process_group()
