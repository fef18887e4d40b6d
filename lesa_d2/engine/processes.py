"""The group of processes of a run: its start, waiting for one another, and its end."""

import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

# Its functions have the process group of the time of its import as a default, and DDP imports it: imported any later,
# they would keep the group alive, and with it threads that abort a process at its end.
import torch.distributed.nn
from detectron2.utils import comm

from ..compat import forget_process_groups
from ..errors import STOPPED, ConfigError, LesaError

TIMEOUT = "LESA_COLLECTIVE_TIMEOUT"
"""Environment variable: seconds for which a process waits in a collective operation for the others."""
DEFAULT_TIMEOUT = 1800
GRACE = 3
"""Seconds in which the other processes can say what is wrong with them."""
PATIENCE = timedelta(days=1)
"""How long processes wait where one of them may work alone: evaluation, reports, predictions."""


Result = TypeVar("Result")


def collective_timeout() -> timedelta:
    """Return how long a process waits in a collective operation, such as the exchange of gradients.

    Raises:
        ConfigError: the environment variable is no positive number.
    """
    given = os.environ.get(TIMEOUT, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= PATIENCE.total_seconds():
        raise ConfigError(f"{TIMEOUT} must be a number of seconds above 0 and up to a day, got {given!r}")
    return timedelta(seconds=seconds)


def join_process_group() -> None:
    """Join the processes that torchrun has started."""
    timeout, local_rank = collective_timeout(), int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        # NCCL connects at once, and its barriers need not guess the device.
        dist.init_process_group("nccl", timeout=timeout, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=timeout)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def wait_for_all() -> None:
    """Wait until every process has come here, for up to a day, without a wait of the device.

    The process group of the collectives would end the run after its timeout, which detects a process that hangs.

    Raises:
        RuntimeError: a process has ended, or the day has passed.
    """
    if comm.get_world_size() > 1:
        dist.barrier(_patient_group())


def on_main_process(work: Callable[[], Result]) -> Result | None:
    """Return the result of ``work`` on the main process, and None on the others, which wait for it.

    Raises:
        LesaError: on the main process that of ``work``, on the others one that says so.
    """
    error = result = None
    if comm.is_main_process():
        try:
            result = work()
        except LesaError as failure:
            error = failure
    wait_for_all()
    has_failed = comm.all_gather(error is not None)[0]
    if error is not None:
        raise error
    if has_failed:
        raise LesaError("the main process has stopped, for the reason that it gives")
    return result


@lru_cache(maxsize=1)
def _patient_group() -> Any:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def leave_process_group() -> None:
    """Leave the process group after all work is done; its threads end here.

    A thread of gloo releases the tensors of a collective after it has told the waiting thread that it is done.  If the
    interpreter ends meanwhile, that aborts the process: "terminate called without an active exception".  The threads
    are joined when the last reference to the group is gone.
    """
    dist.destroy_process_group()
    _patient_group.cache_clear()
    forget_process_groups()
    gc.collect()  # models and loaders of the run, in reference cycles, have references as well


def end_process(status: int) -> NoReturn:
    """End a process that has failed among others, after :data:`GRACE` seconds where it is by an error.

    The first process that ends has the others ended, which may be about to say the same.
    What the interpreter does at its end can wait for a collective in which the others never take part.  They are ended
    by torchrun or by the process that started them.
    """
    if status != STOPPED:
        time.sleep(GRACE)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
