"""Stop a run by a signal: its state is saved first."""

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from functools import cache
from types import FrameType
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..compat import at_exit
from ..errors import StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Asked to end (also by clusters), asked to end soon (Slurm, with ``--signal``), and Ctrl-C."""


FORWARDED = 1.0
"""Seconds in which another signal is the same one: clusters signal all processes, and torchrun forwards its own."""


class StopRequest:
    """Note signals while open; a second one, after :data:`FORWARDED` seconds, ends the process at once."""

    def __init__(self) -> None:
        self.number = 0  # of the signal
        self._time = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        try:
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # only the main thread of a program can
            pass
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if time.monotonic() - self._time > FORWARDED:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.number, self._time = number, time.monotonic()
        name = signal.Signals(number).name
        os.write(2, f"{name}: the state is saved after this step; a second signal ends at once.\n".encode())

    def check(self) -> None:
        """Raise StoppedError, on all processes, where one of them has got a signal; the device is not waited for."""
        number = max(comm.all_gather(self.number))
        if number:
            raise StoppedError(number)

    def watch(self, batches: Iterable[Any]) -> "Watched":
        """Return a loader of an evaluation that ends early where this process has got a signal.

        Whoever evaluates calls :meth:`check` after it.
        """
        return Watched(batches, self)


class StopHook(HookBase):
    """Stop all processes after a step in which one of them has got a signal."""

    def __init__(self, request: StopRequest) -> None:
        self.request = request

    def after_step(self) -> None:
        """Stop if it is asked for, unless the run is complete."""
        if self.trainer.iter + 1 < self.trainer.max_iter:
            self.request.check()


@cache
def _kill_readers_at_exit(pid: int) -> None:
    """Have processes of loaders killed when process ``pid``, this one, ends: Python asks by SIGTERM, and waits.

    A process that was forked from one with such a finalizer has none.
    """
    at_exit(_kill_readers)


def _kill_readers() -> None:
    # else PyTorch raises an error where a process of a loader is killed
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


class Watched:
    """Give the batches of a loader until a signal arrives."""

    def __init__(self, batches: Any, request: StopRequest) -> None:
        self._batches, self._request = batches, request

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in start_reading(self._batches):
            if self._request.number:
                return
            yield batch


def start_reading(loader: Iterable[Any]) -> Iterator[Any]:
    """Start a loader, and return its batches; the processes that it starts with the first batch never get a signal.

    Clusters signal all processes of a job.  A loader's process that ends makes PyTorch raise an error in the middle of
    a step.  They end with the process that started them, which kills those that are left.
    """
    _kill_readers_at_exit(os.getpid())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        batches = iter(loader)
        first = list(itertools.islice(batches, 1))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return itertools.chain(first, batches)
