"""Tables of measurements, ratios first, and a Markdown file made of them."""

import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from ...storage import write_text
from .measure import Measurement, megabytes

INTRODUCTION = """# What LESA costs here

Written by `lesa benchmark`; each section says by which command. Figures of one table come from
one run: compare within a table, and trust ratios more than milliseconds. Memory is what a step adds to the
peak, above inputs and weights. Variants too slow to be repeated are timed once. "No bias, d=32" is PyTorch's
attention without relative logits, a practical limit; the "plain formula" computes maps of all pairs. A device
or dtype without a section here (CUDA, so far): not measured.
"""


@dataclass
class Report:
    """One section: measurements, and what they are compared with.

    Attributes:
        title: of the section.
        measurements: of all variants and modes.
        plain: the variant that is 1×.
        yardstick: a second variant to compare with, or None.
    """

    title: str
    measurements: list[Measurement]
    plain: str
    yardstick: str | None = None

    def table(self) -> str:
        """Return Markdown: for each mode and variant how many times faster and smaller than ``plain``."""
        headers = ["", "variant", f"faster than {self.plain}"]
        headers += [f"time / {self.yardstick}"] if self.yardstick else []
        headers += ["ms", f"memory / {self.plain}", "memory, MB"]
        return markdown(headers, [self._row(m) for m in self.measurements])

    def _row(self, m: Measurement) -> list[str]:
        plain = self._find(self.plain, m.mode)
        ratio = f"{plain.seconds / m.seconds:.2f}×"
        against = [f"{m.seconds / self._find(self.yardstick, m.mode).seconds:.2f}"] if self.yardstick else []
        share = "not measured"
        if m.extra_bytes is not None and plain.extra_bytes:
            share = f"{m.extra_bytes / plain.extra_bytes:.3f}"
        return [m.mode, m.variant, ratio, *against, f"{m.seconds * 1e3:.1f}", share, megabytes(m.extra_bytes)]

    def _find(self, variant: str | None, mode: str) -> Measurement:
        return next(m for m in self.measurements if m.variant == variant and m.mode == mode)

    def text(self) -> str:
        """Return title and table."""
        return f"### {self.title}\n\n{self.table()}"


@dataclass
class Growth(Report):
    """Variants that are one computation at growing ``sides``; one measurement a side and mode, in order."""

    sides: Sequence[int] = ()

    def table(self) -> str:
        """Return Markdown: time and memory by side, and the exponents that fit them."""
        rows = [
            [m.mode, m.variant, f"{m.seconds * 1e3:.1f}", megabytes(m.extra_bytes)] for m in self.measurements
        ]
        fits = [self._fit(mode) for mode in ("forward", "training")]
        return "\n".join([markdown(["", "variant", "ms", "memory, MB"], rows), "", *fits])

    def _fit(self, mode: str) -> str:
        found = [m for m in self.measurements if m.mode == mode]
        time = fitted_exponent(self.sides, [m.seconds for m in found])
        memory = fitted_exponent(self.sides, [max(m.extra_bytes or 1, 1) for m in found])
        return f"Image side s, {mode}: time ~ s^{time:.2f}, memory ~ s^{memory:.2f} (least squares).  "


@dataclass
class Throughput(Report):
    """Steps that each handle ``images`` pictures."""

    images: int = 1

    def table(self) -> str:
        """Return Markdown: pictures a second, and how many times those of ``plain``."""
        plain = self._find(self.plain, self.measurements[0].mode)
        rows = [
            [m.variant, f"{self.images / m.seconds:.1f}", f"{plain.seconds / m.seconds:.1f}×"]
            for m in self.measurements
        ]
        return markdown(["", "images a second", f"against {self.plain}"], rows)


@dataclass
class Estimates(Report):
    """Measured memory beside estimates: bytes by variant and mode."""

    estimates: dict[tuple[str, str], int] = field(default_factory=dict)

    def table(self) -> str:
        """Return Markdown: both, and their ratio."""
        headers = ["", "step", "estimated, MB", "measured, MB", "estimated / measured"]
        return markdown(headers, [self._row(m) for m in self.measurements])

    def _row(self, m: Measurement) -> list[str]:
        estimate, measured = self.estimates[m.variant, m.mode], m.extra_bytes
        ratio = f"{estimate / measured:.2f}" if measured else "not measured"
        return [m.mode, m.variant, megabytes(estimate), megabytes(measured), ratio]


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of text."""
    return tabulate(rows, headers, "github", disable_numparse=True)


def fitted_exponent(sides: Sequence[int], values: Sequence[float]) -> float:
    """Return e of the least-squares fit value ~ sideᵉ."""
    return statistics.linear_regression([*map(math.log, sides)], [*map(math.log, values)]).slope


def environment(device: str, dtype: str) -> dict[str, str]:
    """Return the machine and the versions."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
        "dtype": dtype,
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "not set"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def save_json(file: str | Path, command: str, where: dict[str, str], reports: Sequence[Report]) -> None:
    """Write all runs of all reports, with command and environment."""
    data: dict[str, Any] = {"command": command, "environment": where, "reports": []}
    for report in reports:
        measurements = [{**asdict(m), "seconds": m.seconds if m.runs else None} for m in report.measurements]
        data["reports"].append({"title": report.title, "plain": report.plain, "measurements": measurements})
    write_text(file, json.dumps(data, indent=1) + "\n")


def write_section(file: str | Path, name: str, text: str) -> None:
    """Put a section into a Markdown file, in place of the one of this name if it has one."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    path = Path(file)
    old = path.read_text(encoding="utf-8") if path.exists() else INTRODUCTION
    section = f"{begin}\n{text}\n{end}\n"
    if begin in old and end in old:
        before, rest = old.split(begin, 1)
        new = before + section + rest.split(end, 1)[1].lstrip("\n")
    else:
        new = old.rstrip("\n") + "\n\n" + section
    write_text(path, new.rstrip("\n") + "\n")
