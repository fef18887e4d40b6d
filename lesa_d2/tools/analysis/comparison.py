"""Comparison of several trainings with several seeds each: a table and learning curves with the spread over seeds.

The folder of a comparison is written by :class:`.repeated_runs.RepeatedRuns`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tabulate import tabulate

from ...errors import LesaError
from ...storage import save_figure
from .repeated_runs import is_finished

Curve = dict[int, float]
"""Values of one quantity by iteration."""

LOSS = "total_loss"
DETAIL = 2 / 3  # of the iterations, after which the curves are drawn enlarged too


@dataclass(frozen=True)
class Metric:
    """Describe a metric, in percent, that an evaluation writes into metrics.json.

    Args:
        key: its name in metrics.json.
        name: its name in tables and plots.
        training: the same of training batches, where that is logged.
    """

    key: str
    name: str
    training: str = ""


TOP1 = Metric("accuracy/top1", "top-1", "train_top1")
BOX_AP = Metric("bbox/AP", "box AP")
MASK_AP = Metric("segm/AP", "mask AP")


@dataclass(frozen=True)
class Run:
    """Hold one finished training; ``curves`` has every quantity of its metrics.json."""

    name: str
    seed: int
    parameters: int
    curves: dict[str, Curve]

    def curve(self, metric: Metric) -> Curve:
        """Return the metric of every evaluation; empty where it was not evaluated."""
        return self.curves.get(metric.key, {})

    def final(self, metric: Metric) -> float:
        """Return the metric of the last evaluation; not a number where it was not evaluated."""
        curve = self.curve(metric)
        return curve[max(curve)] if curve else math.nan


def read_runs(folder: str | Path) -> list[Run]:
    """Return the finished runs of a comparison, sorted by name and seed.

    Raises:
        LesaError: no run is finished.
    """
    finished = [path for path in sorted(Path(folder).glob("*/seed_*")) if is_finished(path)]
    if not finished:
        raise LesaError(f"{folder} holds no finished run NAME/seed_N")
    runs = [_read(path) for path in finished]
    return sorted(runs, key=lambda run: (run.name, run.seed))


def _read(folder: Path) -> Run:
    state = torch.load(folder / "model_final.pth", map_location="cpu", weights_only=True)["model"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return Run(
        name=folder.parent.name,
        seed=int(folder.name.removeprefix("seed_")),
        parameters=sum(value.numel() for name, value in state.items() if not name.endswith(statistics)),
        curves=_read_curves(folder / "metrics.json"),
    )


def _read_curves(file: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        iteration = values.pop("iteration")
        for key, value in values.items():
            curves.setdefault(key, {})[iteration] = value
    return curves


def evaluated(runs: Sequence[Run], metrics: Sequence[Metric]) -> list[Metric]:
    """Return those of ``metrics`` that at least one run has; for example, data without masks have no mask AP.

    Raises:
        LesaError: no run has any of them.
    """
    known = [metric for metric in metrics if any(run.curve(metric) for run in runs)]
    if not known:
        keys = " or ".join(metric.key for metric in metrics)
        raise LesaError(f"no run's metrics.json has {keys}; compare runs that are evaluated by one of them")
    return known


def by_name(runs: Sequence[Run], metric: Metric) -> list[tuple[str, list[Run]]]:
    """Group runs by name; the best mean comes first, names without the metric come last."""

    def rank(group: tuple[str, list[Run]]) -> tuple[bool, float]:
        value = mean(run.final(metric) for run in group[1])
        return math.isnan(value), -value

    return sorted(((name, list(group)) for name, group in groupby(runs, key=lambda run: run.name)), key=rank)


def comparison_table(runs: Sequence[Run], kind: str, metrics: Sequence[Metric]) -> str:
    """Return a table of the final metrics of each name: mean, standard deviation and every seed.

    Args:
        runs: those of :func:`read_runs`.
        kind: heading of the column of names, such as "operator".
        metrics: the columns; rows are sorted by the mean of the last metric, the best first.
    """
    rows = [
        [
            f"`{name}`",
            f"{group[0].parameters:,}",
            *(cell for metric in metrics for cell in _cells(group, metric)),
        ]
        for name, group in by_name(runs, metrics[-1])
    ]
    headers = [kind, "parameters"]
    for metric in metrics:
        headers += [f"{metric.name}, mean", "standard deviation", "each seed"]
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)


def _cells(runs: Sequence[Run], metric: Metric) -> list[str]:
    finals = [run.final(metric) for run in runs]
    spread = _number(deviation(finals)) if len(finals) > 1 else "one seed"
    return [_number(mean(finals)), spread, ", ".join(map(_number, finals))]


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample; unlike ``stdev``, accept values that are not a number."""
    return math.nan if any(map(math.isnan, values)) else stdev(values)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def plot_curves(runs: Sequence[Run], metric: Metric, file: str | Path) -> Path:
    """Write the figure of :func:`comparison_figure` to a picture file."""
    file = Path(file)
    save_figure(comparison_figure(runs, metric), file, dpi=110)
    return file


def comparison_figure(runs: Sequence[Run], metric: Metric) -> Figure:
    """Draw training loss and metric by iteration: the mean over seeds, shaded from the lowest to the highest seed.

    A third panel enlarges the end of the metric's curves.  For runs that are evaluated only once, draw the metric of
    every seed and the mean instead of both.
    """
    has_curves = any(len(run.curve(metric)) > 1 for run in runs)
    figure = Figure(figsize=(16 if has_curves else 11, 4.2), layout="constrained")
    left, right, *detail = figure.subplots(1, 3 if has_curves else 2)
    groups = by_name(runs, metric)
    _draw_curves(left, [(name, [run.curves[LOSS] for run in group]) for name, group in groups])
    left.set(xlabel="iteration", ylabel="training loss (median of 20 logged)", yscale="log")
    seeds = len({run.seed for run in runs})
    legend = f"mean and range of {seeds} seed{'s' * (seeds > 1)}"
    if has_curves:
        for axes in (right, *detail):
            _draw_metric(axes, groups, metric)
        _enlarge(right, detail[0], runs, metric)
    else:
        _draw_finals(right, [(name, [run.final(metric) for run in group]) for name, group in groups])
        right.set(xlabel=f"final validation {metric.name} (%): each seed, and their mean")
    left.legend(title=legend, loc="upper right")
    for axes in (left, right, *detail):
        axes.grid(alpha=0.3)
    return figure


def _draw_metric(axes: Axes, groups: Sequence[tuple[str, list[Run]]], metric: Metric) -> None:
    """Draw the metric of the validation data and, dashed, that of training batches."""
    _draw_curves(axes, [(name, [run.curve(metric) for run in group]) for name, group in groups])
    logged = [(name, [run.curves.get(metric.training, {}) for run in group]) for name, group in groups]
    for index, (_, curves) in enumerate(logged):
        iterations, means = _mean_curve(curves)
        axes.plot(iterations, means, "--", color=f"C{index}", linewidth=0.9, alpha=0.7)
    dashed = any(curve for _, curves in logged for curve in curves)
    axes.set(xlabel="iteration", ylabel=f"{metric.name} (%), validation{', dashed: training' * dashed}")


def _enlarge(whole: Axes, detail: Axes, runs: Sequence[Run], metric: Metric) -> None:
    """Limit ``detail`` to the end of the validation curves, which is outlined in ``whole``."""
    last = max(max(run.curve(metric), default=0) for run in runs)
    ends = [value for run in runs for at, value in run.curve(metric).items() if at >= DETAIL * last]
    room = max(0.05 * (max(ends) - min(ends)), 0.1)
    low, high = min(ends) - room, max(ends) + room
    detail.set(xlim=(DETAIL * last, last), ylim=(low, high), title="the rectangle of the left, enlarged")
    corner, width, height = (DETAIL * last, low), (1 - DETAIL) * last, high - low
    whole.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="black", linewidth=0.8))


def _mean_curve(curves: Sequence[Curve]) -> tuple[list[int], list[float]]:
    """Return the iterations that all curves have, and the means of their values there."""
    iterations = sorted(set.intersection(*(set(curve) for curve in curves)))
    return iterations, [mean(curve[iteration] for curve in curves) for iteration in iterations]


def _draw_curves(axes: Axes, groups: Sequence[tuple[str, list[Curve]]]) -> None:
    for index, (name, curves) in enumerate(groups):
        iterations, means = _mean_curve(curves)
        values = [[curve[iteration] for curve in curves] for iteration in iterations]
        axes.plot(iterations, means, color=f"C{index}", label=name, linewidth=1.8)
        lowest, highest = [min(row) for row in values], [max(row) for row in values]
        axes.fill_between(iterations, lowest, highest, color=f"C{index}", alpha=0.15, linewidth=0)


def _draw_finals(axes: Axes, groups: Sequence[tuple[str, list[float]]]) -> None:
    """Draw one row for each name, the first at the top."""
    for index, (_, finals) in enumerate(groups):
        axes.plot(finals, [index] * len(finals), "o", color=f"C{index}", alpha=0.6)
        axes.plot(mean(finals), index, "|", color=f"C{index}", markersize=28, markeredgewidth=2.5)
    axes.set_yticks(range(len(groups)), [name for name, _ in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
