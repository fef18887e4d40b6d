"""Several operators, several seeds each: a table and learning curves with the spread over seeds.

A comparison's folder holds one folder a run, ``OPERATOR/seed_N``, as the training scripts write them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from ..errors import LesaError

Curve = dict[int, float]
"""Value by iteration."""

METRIC = "accuracy/top1"
LOSS = "total_loss"
FINISHED = "finished"


@dataclass(frozen=True)
class Run:
    """One finished training: validation top-1 in percent and training loss by iteration."""

    operator: str
    seed: int
    parameters: int
    top1: Curve
    loss: Curve

    @property
    def final(self) -> float:
        """Top-1 of the last evaluation."""
        return self.top1[max(self.top1)]


def run_folder(folder: str | Path, operator: str, seed: int) -> Path:
    """Where a comparison in ``folder`` keeps this run."""
    return Path(folder) / operator / f"seed_{seed}"


def is_finished(folder: Path) -> bool:
    """Whether the run in ``folder`` came to its end, last evaluation included."""
    return (folder / FINISHED).is_file()


def mark_finished(folder: Path) -> None:
    """Note that the run came to its end: its weights are written before the last evaluation."""
    (folder / FINISHED).touch()


def read_runs(folder: str | Path) -> list[Run]:
    """The finished runs of a comparison, by operator and seed.

    Raises:
        LesaError: there is none.
    """
    finished = [path for path in sorted(Path(folder).glob("*/seed_*")) if is_finished(path)]
    if not finished:
        raise LesaError(f"{folder} holds no finished run OPERATOR/seed_N")
    runs = [_read(path) for path in finished]
    return sorted(runs, key=lambda run: (run.operator, run.seed))


def _read(folder: Path) -> Run:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text(encoding="utf-8").splitlines()]
    state = torch.load(folder / "model_final.pth", map_location="cpu", weights_only=True)["model"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return Run(
        operator=folder.parent.name,
        seed=int(folder.name.removeprefix("seed_")),
        parameters=sum(value.numel() for name, value in state.items() if not name.endswith(statistics)),
        top1={line["iteration"]: line[METRIC] for line in lines if METRIC in line},
        loss={line["iteration"]: line[LOSS] for line in lines if LOSS in line},
    )


def by_operator(runs: list[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Operators with their runs, the best mean first."""
    groups = [(name, list(group)) for name, group in groupby(runs, key=lambda run: run.operator)]
    return iter(sorted(groups, key=lambda group: -mean(run.final for run in group[1])))


def comparison_table(runs: list[Run]) -> str:
    """Final top-1 of each operator: mean, standard deviation and every seed; the best mean first."""
    rows = []
    for operator, group in by_operator(runs):
        finals = [run.final for run in group]
        spread = f"{stdev(finals):.1f}" if len(finals) > 1 else "one seed"
        each = ", ".join(f"{final:.1f}" for final in finals)
        rows.append([f"`{operator}`", f"{group[0].parameters:,}", f"{mean(finals):.1f}", spread, each])
    headers = ["operator", "parameters", "top-1, mean", "standard deviation", "each seed"]
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)


def plot_curves(runs: list[Run], file: str | Path) -> Path:
    """Training loss and validation top-1 by iteration: the mean over seeds, shaded from worst to best."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (operator, group) in enumerate(by_operator(runs)):
        _draw(left, operator, f"C{index}", [run.loss for run in group])
        _draw(right, operator, f"C{index}", [run.top1 for run in group])
    left.set(xlabel="iteration", ylabel="training loss (median of 20 logged)", yscale="log")
    right.set(xlabel="iteration", ylabel="validation top-1 (%)")
    seeds = sorted({run.seed for run in runs})
    right.legend(title=f"mean and range of {len(seeds)} seed{'s' * (len(seeds) > 1)}", loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    file = Path(file)
    figure.savefig(file, dpi=110)
    return file


def _draw(axes: Axes, name: str, colour: str, curves: list[Curve]) -> None:
    iterations = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[iteration] for curve in curves] for iteration in iterations]
    axes.plot(iterations, [mean(row) for row in values], color=colour, label=name, linewidth=1.8)
    lowest, highest = [min(row) for row in values], [max(row) for row in values]
    axes.fill_between(iterations, lowest, highest, color=colour, alpha=0.15, linewidth=0)
