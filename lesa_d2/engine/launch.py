"""Starting the processes: one, several on a machine, several machines, or already started by torchrun."""

import argparse
import os
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from ..errors import LesaError

EPILOG = """
examples:
  python train_net.py --config-file configs/mask_rcnn_lesa_r50.py --num-gpus 8
  python train_net.py --config-file configs/mask_rcnn_lesa_r50.py --resume
  python train_net.py --config-file configs/quickstart_lesa.py --dataset DIR
  torchrun --nproc-per-node 2 train_net.py --config-file configs/quickstart_lesa.py train.max_iter=100
"""


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's arguments, and the data set of the user."""
    parser = default_argument_parser(epilog=EPILOG)
    parser.add_argument(
        "--dataset", metavar="DIR", help="train and evaluate on this COCO-format folder instead"
    )
    parser.add_argument(
        "--drop-invalid", action="store_true", help="leave out what the check of --dataset finds wrong"
    )
    return parser


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> int:
    """Run ``main(args)`` in the processes that the arguments or torchrun ask for.

    Returns:
        The exit status: 0, or 2 after printing the one message of a user's error.
    """
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _run_under_torchrun(main, args)
        else:
            processes = usable_processes(args.num_gpus)
            detectron2_launch(
                _Worker(main), processes, args.num_machines, args.machine_rank, args.dist_url, args=(args,)
            )
    except LesaError as error:
        report_error(error)
        return 2
    except torch.multiprocessing.ProcessExitedException as error:
        return error.exit_code or 1
    return 0


class _Worker:
    """Runs ``main`` in a spawned process, where a user's error must become an exit status too."""

    def __init__(self, main: Callable[[argparse.Namespace], object]) -> None:
        self.main = main

    def __call__(self, args: argparse.Namespace) -> None:
        if comm.get_world_size() == 1:
            self.main(args)
            return
        try:
            self.main(args)
        except LesaError as error:
            report_error(error)
            sys.exit(2)


def usable_processes(num_gpus: int) -> int:
    """Processes to start on this machine: ``num_gpus``, or one on the CPU where there is no GPU.

    Raises:
        LesaError: fewer GPUs than asked for.
    """
    available = torch.cuda.device_count()
    if num_gpus > 1 and not available:
        print(f"No GPU found: running one process on the CPU instead of {num_gpus}.", file=sys.stderr)
        return 1
    if available and num_gpus > available:
        raise LesaError(f"--num-gpus {num_gpus}, but this machine has {available}")
    return num_gpus


def _run_under_torchrun(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        comm.create_local_process_group(local_size)
        main(args)
    finally:
        dist.destroy_process_group()


def report_error(error: Exception) -> None:
    """Print an expected error, once for all processes, where a user looks for it."""
    if comm.is_main_process():
        print(f"error: {error}", file=sys.stderr)
