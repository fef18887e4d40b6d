"""The results of several runs, kept in one file for each run, and one table of all."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import mean

from tabulate import tabulate

from ...storage import write_text
from .comparison import deviation

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class RunResult:
    """Hold the results of one run: AP in percent, and the seconds of training and evaluation together.

    The name says everything in which runs may differ, except the seed.
    """

    name: str
    parameters: int
    iterations: int
    box_ap: float
    box_ap50: float
    mask_ap: float
    mask_ap50: float
    seconds: float

    def save(self, folder: str | Path) -> Path:
        """Write the result into ``folder`` as JSON, and return the file."""
        file = Path(folder) / RESULT_FILE
        write_text(file, json.dumps(asdict(self), indent=1) + "\n")
        return file


def read_result(file: Path) -> RunResult:
    """Read the result that :meth:`RunResult.save` has written."""
    return RunResult(**json.loads(file.read_text(encoding="utf-8")))


AP = ("box_ap", "box_ap50", "mask_ap", "mask_ap50")


def write_table(folder: str | Path) -> str:
    """Write a table of runs into ``table.md`` of ``folder``, and return the table.

    The runs are in subfolders, and those of more seeds in subfolders of ``seed_N``.  Runs of one name and the same
    number of iterations share a row, which has the mean and the standard deviation of a sample.
    """
    files = [file for pattern in ("*", "seed_*/*") for file in Path(folder).glob(f"{pattern}/{RESULT_FILE}")]
    runs = [read_result(file) for file in files]

    def kind(run: RunResult) -> tuple[str, int, int]:
        return run.name, run.parameters, run.iterations

    rows = []
    for (name, parameters, iterations), group in groupby(sorted(runs, key=kind), kind):
        same = list(group)
        scores = [_of(same, attrgetter(key)) for key in AP]
        minutes = _of(same, lambda run: run.seconds / 60)
        rows.append([name, f"{parameters:,}", iterations, len(same), *scores, f"{minutes} min"])
    headers = [
        "operator",
        "parameters",
        "iterations",
        "seeds",
        "box AP",
        "box AP50",
        "mask AP",
        "mask AP50",
        "time",
    ]
    align = ("left", *["right"] * (len(headers) - 1))
    table = tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)
    write_text(Path(folder) / "table.md", table + "\n")
    return table


def _of(runs: Sequence[RunResult], value: Callable[[RunResult], float]) -> str:
    """Return the mean of a value over runs and, of several, its standard deviation."""
    values = [value(run) for run in runs]
    spread = f" ± {deviation(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"
