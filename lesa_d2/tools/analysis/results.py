"""Results of several runs, one file a run, in one table."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class RunResult:
    """What one run reached; AP in percent, ``seconds`` for training and evaluation together."""

    name: str
    parameters: int
    iterations: int
    box_ap: float
    box_ap50: float
    mask_ap: float
    mask_ap50: float
    seconds: float

    def save(self, folder: str | Path) -> Path:
        file = Path(folder) / RESULT_FILE
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return file


def load_results(folder: str | Path) -> list[RunResult]:
    """The results in all direct subfolders, by name."""
    files = sorted(Path(folder).glob(f"*/{RESULT_FILE}"))
    return [RunResult(**json.loads(file.read_text(encoding="utf-8"))) for file in files]


def write_table(folder: str | Path) -> str:
    """Tabulate the runs below ``folder`` into its ``table.md``; returns the table."""
    headers = ["operator", "parameters", "iterations", "box AP", "box AP50", "mask AP", "mask AP50", "time"]
    rows = [
        [
            run.name,
            f"{run.parameters:,}",
            run.iterations,
            *(f"{value:.1f}" for value in (run.box_ap, run.box_ap50, run.mask_ap, run.mask_ap50)),
            f"{run.seconds / 60:.1f} min",
        ]
        for run in load_results(folder)
    ]
    align = ("left", *["right"] * (len(headers) - 1))
    table = tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)
    (Path(folder) / "table.md").write_text(table + "\n", encoding="utf-8")
    return table
