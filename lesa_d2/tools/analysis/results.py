"""The results of several runs, kept in one file for each run, and one table of all."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

from ...storage import write_text

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class RunResult:
    """Hold the results of one run: AP in percent, and the seconds of training and evaluation together."""

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


def write_table(folder: str | Path) -> str:
    """Write a table of the runs in the subfolders of ``folder`` into its ``table.md``, and return the table."""
    files = sorted(Path(folder).glob(f"*/{RESULT_FILE}"))
    runs = [RunResult(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    headers = ["operator", "parameters", "iterations", "box AP", "box AP50", "mask AP", "mask AP50", "time"]
    rows = [
        [
            run.name,
            f"{run.parameters:,}",
            run.iterations,
            *(f"{value:.1f}" for value in (run.box_ap, run.box_ap50, run.mask_ap, run.mask_ap50)),
            f"{run.seconds / 60:.1f} min",
        ]
        for run in runs
    ]
    align = ("left", *["right"] * (len(headers) - 1))
    table = tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)
    write_text(Path(folder) / "table.md", table + "\n")
    return table
