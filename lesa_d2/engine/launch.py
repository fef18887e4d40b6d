"""Start of the processes: one, several on one machine or on many, or those that torchrun has started."""

import argparse
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import torch
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing.errors import record

from ..errors import exit_status
from .processes import collective_timeout, end_process, join_process_group, leave_process_group
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

    Every other process prints its own errors.  A process that fails among others is ended here.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        join_process_group()
        _run_among_others(main, args)
        return 0
    processes = usable_processes(args.num_gpus)
    if processes * args.num_machines == 1:
        main(args)
        return 0
    try:
        with _forwarding():
            detectron2_launch(
                partial(_run_among_others, main),
                processes,
                args.num_machines,
                args.machine_rank,
                args.dist_url,
                args=(args,),
                timeout=collective_timeout(),
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


@contextmanager
def _forwarding() -> Iterator[None]:
    """Hand signals that ask to end, which this process gets while open, to those that it has started."""

    def forward(number: int, frame: object) -> None:
        for process in multiprocessing.active_children():
            if process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_among_others(main: Main, args: argparse.Namespace) -> None:
    """Run ``main`` in a process of a group, and leave the group; end the process where that fails."""
    try:
        # torchrun says in its summary what is recorded here
        status = exit_status(partial(_without_result, record(main), args))
    except Exception:
        print(f"[rank {comm.get_rank()}] {traceback.format_exc()}", file=sys.stderr)
        status = 1
    if status:
        end_process(status)
    leave_process_group()


def _without_result(main: Main, args: argparse.Namespace) -> None:
    main(args)
