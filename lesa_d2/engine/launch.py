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
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing.errors import record

from ..errors import exit_status
from .processes import collective_timeout, end_process, join_process_group, leave_process_group
from .task import Task

OVERRIDE = re.compile(r"\+?[A-Za-z_]\w*(\.\w+)+=")
Main = Callable[[argparse.Namespace], object]


def argument_parser(task: Task) -> argparse.ArgumentParser:
    """Return a parser with the names of detectron2's arguments, as this package uses them, and those of the task."""
    parser = argparse.ArgumentParser(
        prog=task.command,
        description=f"Train or evaluate {task.trains}.",
        epilog=task.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--config-file",
        default="",
        metavar="FILE",
        help="a LazyConfig (.py, or the config.yaml of a run), or the name of one of configs/; lesa zoo lists them",
    )
    add(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in train.output_dir; in an empty folder, begin",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the run that is in train.output_dir; else it is refused",
    )
    add(
        "--eval-only",
        action="store_true",
        help="evaluate the weights of train.init_checkpoint=FILE, or else those that the run in train.output_dir has "
        "trained",
    )
    add(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="GPUs of this machine, a process for each; default: 1, or the CPU where there is no GPU. torchrun "
        "starts its processes itself",
    )
    add("--num-machines", type=int, default=1, metavar="N", help="start the command on each; default: 1")
    add("--machine-rank", type=int, default=0, metavar="R", help="number of this machine, from 0")
    add(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port_of_user()}",
        metavar="URL",
        help="address of machine 0 for all of them, such as tcp://HOST:29500; default: a port of this machine",
    )
    task.add_arguments(parser)
    add(
        "opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="key=value",
        help="overrides of the config, such as train.max_iter=100, after all options; docs/settings.md lists the keys "
        "of train, and docs/configs.md says how others are written",
    )
    return parser


def port_of_user() -> int:
    """Return a port that other users of the machine are unlikely to take."""
    return 2**15 + 2**14 + (os.getuid() if hasattr(os, "getuid") else 1) % 2**14


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
