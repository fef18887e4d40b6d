"""Plots of a detector's evaluation: precision against recall, and a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ...storage import save_figure
from .drawing import LABEL, as_plain_text, class_colours, shortened

LEGEND = 10  # classes in a legend; if there are more, only the best and the worst are named
NUMBERED = 25  # classes; the cells of larger matrices have no numbers
BRIGHT = 0.6  # mean of red, green and blue; such lines have a dark edge, to be seen on white
TITLE = 60  # letters of a line of a title


def plot_precision_recall(
    precision: np.ndarray,
    recall: np.ndarray,
    ap50: np.ndarray,
    classes: Sequence[str],
    title: str,
    file: str | Path,
) -> None:
    """Draw the precision-recall curve of each class at IoU 0.5, and their mean.

    Args:
        precision: (R, K), below 0 for classes without objects.
        recall: (R,).
        ap50: (K,) in percent, not a number for classes without objects.
        classes: K names.
        title: of the plot.
        file: the picture to write.
    """
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    known = [k for k in range(len(classes)) if np.isfinite(ap50[k])]
    named, colours = _named(known, ap50), class_colours(len(classes))
    for k in known:
        if k not in named:
            axes.plot(recall, precision[:, k], color="0.8", linewidth=0.7)
    for k in named:
        colour = tuple(part / 255 for part in colours[k])
        effects = [withStroke(linewidth=2.5, foreground="0.4")] if np.mean(colour) > BRIGHT else []
        axes.plot(
            recall,
            precision[:, k],
            color=colour,
            path_effects=effects,
            label=f"{short(classes[k])}: {ap50[k]:.1f}",
        )
    if len(known) > 1:
        mean = precision[:, known].mean(1)
        axes.plot(recall, mean, "k--", linewidth=2, label=f"mean of {len(known)}: {ap50[known].mean():.1f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    _set_title(axes, title)
    axes.grid(alpha=0.3)
    axes.legend(
        title="class: AP50" + (", best and worst" if len(known) > LEGEND else ""),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        fontsize=8,
        title_fontsize=8,
    )
    save_figure(figure, file, dpi=110)


def _named(known: list[int], ap50: np.ndarray) -> list[int]:
    """Return all classes by descending AP; if they are too many for the legend, the best and the worst of them."""
    ranked = sorted(known, key=lambda k: -ap50[k])
    if len(ranked) <= LEGEND:
        return ranked
    return ranked[: LEGEND // 2] + ranked[-LEGEND // 2 :]


def plot_confusion(matrix: np.ndarray, classes: Sequence[str], title: str, file: str | Path) -> None:
    """Draw a matrix of counts (K+1, K+1), coloured by the share of each row."""
    names = [*map(short, classes), "background"]
    side = min(4.0 + 0.45 * len(names), 6 + 0.16 * len(names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    size = 9 if len(names) <= NUMBERED else 6
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xlabel("detected as (background: missed)")
    axes.set_ylabel("object (background: nothing there)")
    _set_title(axes, title)
    if len(names) <= NUMBERED:
        for (row, column), number in np.ndenumerate(matrix):
            if number:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=size)
    save_figure(figure, file, dpi=110)


def _set_title(axes: Axes, title: str) -> None:
    """Write a title above a plot, a line for each part of it that stands between colons."""
    lines = [short(line, TITLE) for line in title.split(": ")]
    axes.set_title("\n".join(lines), fontsize=10)


def short(name: str, length: int = LABEL) -> str:
    """Return a name on one line, shortened to ``length`` letters, with ``$`` as a plain character."""
    return as_plain_text(shortened(name, length))
