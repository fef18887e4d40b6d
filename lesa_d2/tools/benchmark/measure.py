"""Timing and peak memory of variants of one computation, side by side.

Times are taken in rounds, each variant once a round, so that a busy neighbour slows all of them; the
median counts.  Memory is what a process's high-water mark rises by during one step, in a fresh process for
every figure (on CUDA: what the allocator's peak rises by).
"""

import ctypes
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

MODES = ("forward", "training")
Step = Callable[[], object]


@dataclass(frozen=True)
class Variant:
    """One way to compute something.

    Attributes:
        name: in the tables.
        build: "forward" or "training" -> a step to be measured; a function or partial of a module, so that it
            can be sent to another process.
    """

    name: str
    build: Callable[[str], Step]


@dataclass
class Measurement:
    """What one variant took in one mode; ``extra_bytes`` is None where it could not be measured."""

    variant: str
    mode: str
    runs: list[float] = field(default_factory=list)
    extra_bytes: int | None = None

    @property
    def seconds(self) -> float:
        """Return the median run."""
        return statistics.median(self.runs)


def measure(
    variants: Sequence[Variant],
    device: str,
    *,
    rounds: int = 7,
    budget: float = 60.0,
    modes: Sequence[str] = MODES,
    progress: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> list[Measurement]:
    """Measure every variant in every mode.

    Args:
        variants: what is measured, interleaved.
        device: "cpu" or "cuda".
        rounds: timed runs of each; one more comes before them.
        budget: seconds of timed runs after which a variant is not run again; each runs at least once, and
            one that takes longer is timed at its very first run.
        modes: of :data:`MODES`.
        progress: receives a line about each variant.
    """
    results = []
    for mode in modes:
        steps = [(Measurement(v.name, mode), v.build(mode)) for v in variants]
        first = {m.variant: _seconds(step, device) for m, step in steps}
        for m, _ in steps:
            if first[m.variant] > budget:
                m.runs.append(first[m.variant])
        for number in range(rounds):
            for m, step in steps:
                if sum(m.runs) < budget or not m.runs:
                    m.runs.append(_seconds(step, device))
            progress(f"{mode}: round {number + 1} of {rounds}")
        results += [m for m, _ in steps]
        del steps, step
    for m in results:
        build = next(v.build for v in variants if v.name == m.variant)
        m.extra_bytes = extra_memory(build, m.mode, device)
        progress(f"{m.mode}: {m.variant}: {m.seconds * 1e3:.1f} ms, {megabytes(m.extra_bytes)} MB")
    return results


def _seconds(step: Step, device: str) -> float:
    _synchronise(device)
    start = time.perf_counter()
    step()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def extra_memory(build: Callable[[str], Step], mode: str, device: str) -> int | None:
    """Return the bytes by which the peak rises during one step; None where the step was killed."""
    if device == "cuda":
        step = build(mode)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_extra_memory, args=(build, mode, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode is not None and process.exitcode < 0:  # killed, out of memory most likely
            return None
        raise RuntimeError("a step failed in its own process; what it said stands above") from None
    finally:
        process.join()


def _send_extra_memory(build, mode, sender) -> None:  # type: ignore[no-untyped-def]
    step = build(mode)
    _forget_high_water_mark()
    before = _high_water_mark()
    step()
    sender.send(_high_water_mark() - before)


def _forget_high_water_mark() -> None:
    """Start anew from what is in use, so that building does not hide what a step takes; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # else freed memory, which a step would take again, still counts
        Path("/proc/self/clear_refs").write_text("5")


def _high_water_mark() -> int:
    """Return the most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, not inherited from the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def megabytes(number: int | None) -> str:
    """Return a number of bytes for a table; "not measured" for None."""
    return "not measured" if number is None else f"{number / 2**20:.0f}"
