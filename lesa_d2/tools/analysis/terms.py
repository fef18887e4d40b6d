"""How much the unary and the binary term contribute (arXiv 2107.05637, Tables 1 and 2), in numbers.

- Self-attention: the softmax weight of the unary position (i = j) against that of all others, and for classifiers
  the accuracy without it.
- LESA: 1/(1+ω) for the unary and ω/(1+ω) for the binary term, ω the gate.

All are means over positions and channels, or heads, of an image, then over images; the value of a stage is the mean
of its layers.  Decomposed positions need no map of all pairs, so images of 1024 px and more can be inspected.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from ...errors import LesaError
from ...layers.attention.reference import OwnPosition
from ...storage import save_figure, write_text
from .probes import Observation, observing

TABLE_FILE, DATA_FILE, PLOT_FILE = "terms.md", "terms.json", "terms.png"
QUIET_SECONDS = 5  # after which a progress bar appears
UNARY_COLOUR, BINARY_COLOUR, EVEN_COLOUR = "#d1602c", "#3568a8", "#222222"


@dataclass(frozen=True)
class Terms:
    """Hold the means of one layer, or of several; None where an operator has no such part.

    Attributes:
        own, rest: softmax weight of the own position, and of all others together.  Both are computed
            independently, as are the shares, so that their sum of 1 is a check.
        even: the weight of each of n positions if all were the same, 1/n.
        unary_share, binary_share: 1/(1+ω) and ω/(1+ω).
        unary_size, binary_size: |unary| and |gate · binary|, without gate |binary|.
    """

    own: float | None = None
    rest: float | None = None
    even: float | None = None
    unary_share: float | None = None
    binary_share: float | None = None
    unary_size: float | None = None
    binary_size: float | None = None

    @staticmethod
    def mean(several: "list[Terms]") -> "Terms":
        """Return the mean of each field, over the terms that have it."""
        columns = {f.name: [getattr(terms, f.name) for terms in several] for f in fields(Terms)}
        known = {name: [v for v in values if v is not None] for name, values in columns.items()}
        return Terms(**{name: fmean(values) for name, values in known.items() if values})


@dataclass(frozen=True)
class LayerTerms:
    """Hold the means of one layer; ``sizes`` are the (H, W) of its input maps."""

    name: str
    label: str
    stage: str
    operator: str
    sizes: list[tuple[int, int]]
    terms: Terms


@dataclass(frozen=True)
class Accuracy:
    """Hold the top-1 of a classifier in percent: as trained, and without attention of positions to themselves.

    ``own_position`` says how that was left out; see :func:`.without_own_position`.
    """

    as_trained: float
    without_own: float
    own_position: OwnPosition = "dropped"


@dataclass(frozen=True)
class TermReport:
    """Hold the results of :func:`inspect_terms` layer by layer, and the accuracy if a classifier was evaluated."""

    images: int
    layers: list[LayerTerms]
    accuracy: Accuracy | None = None

    def stages(self) -> dict[str, Terms]:
        """Return the mean over the layers of every stage."""
        names = dict.fromkeys(layer.stage for layer in self.layers if layer.stage)
        return {name: Terms.mean([x.terms for x in self.layers if x.stage == name]) for name in names}

    def overall(self) -> Terms:
        """Return the mean over all layers."""
        return Terms.mean([layer.terms for layer in self.layers])

    def table(self) -> str:
        """Return layers, stages and the mean of all as a Markdown table; weights and shares are in percent."""
        headers = ["layer", "operator", "map", "own %", "rest %", "even %"]
        headers += ["1/(1+ω) %", "ω/(1+ω) %", "abs(unary)", "abs(gate·binary)"]
        rows = [[x.label, x.operator, _range_of(x.sizes), *_cells(x.terms)] for x in self.layers]
        rows += [[f"{name}, mean", "", "", *_cells(terms)] for name, terms in self.stages().items()]
        rows.append(["all, mean", "", "", *_cells(self.overall())])
        align = ("left", "left", "left", *["right"] * 7)
        return tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)

    def accuracy_table(self) -> str:
        """Return accuracy, error and softmax weight, in percent, as the paper's Table 1; empty without accuracy."""
        if self.accuracy is None:
            return ""
        found, rest = self.accuracy, self.overall().rest or 0.0
        weight = rest if found.own_position == "dropped" else 1.0
        rows = [
            [own, f"{top1:.2f}", f"{100 - top1:.2f}", f"{100 * weight:.2f}"]
            for own, top1, weight in (
                ("kept", found.as_trained, 1.0),
                (found.own_position, found.without_own, weight),
            )
        ]
        headers = ["own position", "top-1 %", "top-1 error %", "softmax weight %"]
        align = ("left", "right", "right", "right")
        return tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)

    def text(self) -> str:
        """Return tables and explanation."""
        return "\n\n".join(filter(None, (self.table(), self.accuracy_table(), self.explanation())))

    def explanation(self) -> str:
        """Explain the columns of the table in a few sentences."""
        lines = [
            f"Means over {self.images} image(s): own and rest are the softmax weights of the position itself "
            "and of all others together; even is 1/n, the weight of each of n positions were all alike; ω is "
            "the gate; the last two columns are the terms' mean absolute values."
        ]
        if any(layer.operator == "StaticLESA" for layer in self.layers):
            lines.append("StaticLESA has no gate: its ω is 1 by definition, and its shares are left out.")
        if any(layer.terms.unary_size is None for layer in self.layers):
            lines.append("Operators without a unary term have no entry for what concerns it.")
        if self.accuracy is not None:
            lines.append(
                f"Top-1 accuracy: {self.accuracy.as_trained:.2f}% as trained, {self.accuracy.without_own:.2f}% with "
                f"no position attending to itself ({_LEFT_OUT[self.accuracy.own_position]})."
            )
        return " ".join(lines)

    def save(self, folder: str | Path) -> Path:
        """Write ``terms.md`` and ``terms.json`` into ``folder``, which is created, and return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TABLE_FILE, f"{self.text()}\n")
        means = {name: asdict(terms) for name, terms in self.stages().items()}
        data = {**asdict(self), "stages": means, "overall": asdict(self.overall())}
        write_text(folder / DATA_FILE, json.dumps(data, indent=1) + "\n")
        return folder


_LEFT_OUT = {
    "dropped": "its term is left out, the others keep their weights",
    "masked": "the weights of the others sum to one",
}


def _range_of(sizes: list[tuple[int, int]]) -> str:
    ends = dict.fromkeys((min(sizes), max(sizes)))
    return " … ".join(f"{height}×{width}" for height, width in ends)


def _cells(terms: Terms) -> list[str]:
    shares = (terms.own, terms.rest, terms.even, terms.unary_share, terms.binary_share)
    sizes = (terms.unary_size, terms.binary_size)
    percent = ["" if value is None else f"{100 * value:.3f}" for value in shares]
    return percent + ["" if value is None else f"{value:.4g}" for value in sizes]


class _Tally:
    """Add up the means of one layer over images."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: dict[str, float] = {}
        self.sizes: set[tuple[int, int]] = set()

    def add(self, observation: Observation) -> None:
        """Add one forward pass."""
        for name, values in _means_of_images(observation).items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.double().sum())
        self.images += len(observation.input)
        self.sizes.add(observation.size)

    def terms(self) -> Terms:
        """Return the means over all images so far."""
        return Terms(**{name: total / self.images for name, total in self.sums.items()})


def _means_of_images(observation: Observation) -> dict[str, Tensor]:
    """Return the mean of each image, (N,), by the names of the fields of :class:`Terms`."""
    own, rest = observation.layer.attention.self_weights(observation.input)
    parts = {name: part.double() for name, part in observation.parts.items()}
    height, width = observation.size
    maps = {"own": own, "rest": rest, "even": own.new_full(own.shape[:1], 1 / (height * width))}
    if "unary" in parts:
        maps["unary_size"] = parts["unary"].abs()
    if "gate" in parts:
        gate = parts["gate"]
        maps |= {"unary_share": 1 / (1 + gate), "binary_share": gate / (1 + gate)}
    if "binary" in parts:
        maps["binary_size"] = (parts.get("gate", 1.0) * parts["binary"]).abs()
    return {name: values.flatten(1).mean(1) if values.dim() > 1 else values for name, values in maps.items()}


def inspect_terms(model: nn.Module, batches: Iterable[Any], total: int | None = None) -> TermReport:
    """Run ``model`` on every batch, in eval mode without gradients, and return the means of its layers' terms.

    Args:
        model: a module with operators of the slot: a classifier, a detector, or its backbone.
        batches: what ``model`` takes; images may differ in size from batch to batch.
        total: number of batches, for the progress bar's estimate; None takes the length of ``batches``.

    Raises:
        LesaError: the model has no operator of the slot, or did not run one of them, or there is no image.
    """
    tallies: dict[str, _Tally] = {}

    def see(observation: Observation) -> None:
        tallies.setdefault(observation.layer.name, _Tally()).add(observation)

    with observing(model, see) as layers:
        for batch in tqdm(batches, "terms", total, unit="batch", delay=QUIET_SECONDS, dynamic_ncols=True):
            model(batch)
    missed = [x.name for x in layers if x.name not in tallies or not tallies[x.name].images]
    if len(missed) == len(layers):
        raise LesaError("expected at least one image, got none")
    if missed:
        raise LesaError(f"the model never ran {', '.join(missed)}: nothing can be said about these layers")
    measured = [
        LayerTerms(
            x.name,
            x.label,
            x.stage,
            type(x.operator).__name__,
            sorted(tallies[x.name].sizes),
            tallies[x.name].terms(),
        )
        for x in layers
    ]
    return TermReport(max(tally.images for tally in tallies.values()), measured)


def plot_terms(report: TermReport, file: str | Path) -> Path:
    """Draw the report layer by layer: softmax weights, shares by the gate, sizes of the terms.

    Panels that are empty for all layers are left out.  The suffix of the file sets its format.
    """
    drawn = [_draw_own]
    if any(layer.terms.unary_share is not None for layer in report.layers):
        drawn.append(_draw_shares)
    if any(layer.terms.binary_size is not None for layer in report.layers):
        drawn.append(_draw_sizes)
    width = max(7.0, 3.0 + 0.55 * len(report.layers))
    figure = Figure(figsize=(width, 2.6 * len(drawn) + 0.6), layout="constrained")
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for draw, axis in zip(drawn, axes, strict=True):
        draw(report, axis)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    labels = [layer.label for layer in report.layers]
    axes[-1].set_xticks(range(len(labels)), labels, rotation=0 if len(labels) < 10 else 45)
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, file, dpi=120)
    return file


def _percent(report: TermReport, name: str) -> list[float]:
    values = _values(report, name)
    return [100 * value for value in values]


def _values(report: TermReport, name: str) -> list[float]:
    """Return a value of every layer; not a number, which matplotlib leaves out, where a layer has none."""
    values = [getattr(layer.terms, name) for layer in report.layers]
    return [float("nan") if value is None else value for value in values]


def _draw_own(report: TermReport, axis: Axes) -> None:
    positions = range(len(report.layers))
    axis.bar(positions, _percent(report, "own"), color=UNARY_COLOUR, width=0.6, label="own position")
    axis.plot(positions, _percent(report, "even"), "_", color=EVEN_COLOUR, ms=16, mew=2, label="even, 1/n")
    axis.set_ylabel("%")
    axis.set_title("Softmax weight of the own position; all others have the rest", fontsize=10)


def _draw_shares(report: TermReport, axis: Axes) -> None:
    positions = range(len(report.layers))
    unary, binary = (_percent(report, f"{term}_share") for term in ("unary", "binary"))
    axis.bar(positions, unary, color=UNARY_COLOUR, width=0.6, label="unary, 1/(1+ω)")
    axis.bar(positions, binary, bottom=unary, color=BINARY_COLOUR, width=0.6, label="binary, ω/(1+ω)")
    axis.set_ylim(0, 100)
    axis.set_ylabel("%")
    axis.set_title("Share of the terms by the gate ω", fontsize=10)


def _draw_sizes(report: TermReport, axis: Axes) -> None:
    has_unary = any(layer.terms.unary_size is not None for layer in report.layers)
    offset = 0.2 if has_unary else 0.0
    right = [index + offset for index in range(len(report.layers))]
    if has_unary:
        left = [index - offset for index in range(len(report.layers))]
        axis.bar(left, _values(report, "unary_size"), color=UNARY_COLOUR, width=0.38, label="|unary|")
    axis.bar(right, _values(report, "binary_size"), color=BINARY_COLOUR, width=0.38, label="|gate · binary|")
    axis.set_ylabel("mean")
    axis.set_title("Mean absolute value of the terms", fontsize=10)
