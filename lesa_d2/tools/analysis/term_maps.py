"""Pictures of the terms at every position: |unary|, |binary|, gate, and the attention of a position.

Shapes: N images, an H×W map, G heads.  Points are (x, y) in pixels of the picture that the network sees.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import ScalarFormatter
from torch import Tensor, nn

from ...errors import LesaError
from ...storage import save_figure
from .image_reader import Point, SeenImage
from .probes import PARTS, Layer, Observation, find_layers, observing

TILE = 2.6  # width of a picture in inches
MARKS = ("#ffffff", "#ffe119", "#00e5ff", "#7dff5a", "#ff9cf5", "#ffb000")
SIZE_COLOURS, GATE_COLOURS, ATTENTION_COLOURS = "viridis", "RdBu_r", "inferno"


@dataclass
class LayerMaps:
    """Hold the maps of one layer on one image; each map is (H, W), a mean over channels.

    Attributes:
        layer: the operator and its position in the model.
        size: (H, W).
        maps: "unary" and "binary" (absolute values) and "gate"; only those that the operator has.
        cells: (y, x) of every point on the map.
        attention: for every point, the softmax weights (G, H, W) of its cell.
    """

    layer: Layer
    size: tuple[int, int]
    maps: dict[str, Tensor]
    cells: list[tuple[int, int]] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)


def layer_maps(model: nn.Module, batch: Tensor, points: Sequence[Point] = ()) -> list[LayerMaps]:
    """Return the maps of every layer that ``model`` runs on one image.

    Args:
        model: a module with operators of the slot.
        batch: (1, 3, H, W), as ``model`` takes it.
        points: (x, y) in pixels of ``batch``.
    """
    layers: list[LayerMaps] = []
    height, width = batch.shape[2:]

    def see(observation: Observation) -> None:
        rows, columns = observation.size
        cells = [(int(y * rows / height), int(x * columns / width)) for x, y in points]
        attention = observation.layer.attention
        maps = {name: _mean_size(part) for name, part in observation.parts.items()}
        weights = [attention.attention_of(observation.input, cell)[0].cpu() for cell in cells]
        layers.append(LayerMaps(observation.layer, observation.size, maps, cells, weights))

    with observing(model, see):
        model(batch)
    return layers


def _scientific() -> ScalarFormatter:
    """Format a colour bar with one power of ten above it instead of long numbers beside it."""
    formatter = ScalarFormatter()
    formatter.set_powerlimits((-2, 3))
    return formatter


def _mean_size(part: Tensor) -> Tensor:
    return part[0].abs().mean(0).float().cpu()


def choose_layers(model: nn.Module, labels: Iterable[str] = ()) -> list[str]:
    """Check that the model has layers of these labels, and return them; without labels return those of all layers.

    Raises:
        LesaError: the model has no layer of a label; the message lists the labels that it has.
    """
    known = [layer.label for layer in find_layers(model)]
    chosen = list(labels) or known
    unknown = [label for label in chosen if label not in known]
    if unknown:
        raise LesaError(f"there is no layer {', '.join(unknown)}; the model has {', '.join(known)}")
    return chosen


class MapSheet:
    """Draw a figure with one row for each layer, and in each row the picture that the network sees."""

    def __init__(self, seen: SeenImage, points: Sequence[Point], rows: int, columns: int) -> None:
        self.picture = seen.picture
        self.points = points
        self.batch_size = (seen.batch.shape[2], seen.batch.shape[3])
        height, width = self.picture.shape[:2]
        size = ((TILE + 0.55) * columns, (TILE * height / width + 0.35) * rows + 0.5)
        self.figure = Figure(figsize=size, layout="constrained")
        self.figure.suptitle(seen.file.name, fontsize=10)
        self.axes = self.figure.subplots(rows, columns, squeeze=False)

    def show_picture(self, axis: Axes, title: str) -> None:
        """Draw the picture with all points."""
        axis.imshow(self.picture, extent=_extent(self.picture.shape))
        for number in range(len(self.points)):
            self._mark(axis, number)
        self._finish(axis, title)

    def show_map(self, axis: Axes, values: Tensor, title: str, colours: str, norm: Normalize) -> None:
        """Draw a map (H, W) of the whole batch; the part that belongs to padding is cut off."""
        extent = _extent(self.batch_size)
        image = axis.imshow(values.numpy(), cmap=colours, norm=norm, extent=extent, interpolation="nearest")
        self._bar(axis, image)
        self._finish(axis, title)

    def show_attention(
        self, axis: Axes, weights: Tensor, cell: tuple[int, int], number: int, title: str
    ) -> None:
        """Draw weights (H, W), in percent, over the picture in grey, with point ``number`` and its cell.

        A few cells may have most of the weight, so the scale of colours ends at the 99.5th percentile of the cells.
        """
        percent = 100 * weights.double()
        top = max(float(percent.quantile(0.995)), 1e-9)
        norm = Normalize(0.0, top)
        values = percent.clamp_max(top).numpy()
        grey = np.repeat(self.picture.mean(2, keepdims=True), 3, axis=2) / 255
        axis.imshow(0.75 * grey, extent=_extent(self.picture.shape))
        axis.imshow(
            values,
            cmap=ATTENTION_COLOURS,
            norm=norm,
            alpha=0.15 + 0.7 * values / top,
            extent=_extent(self.batch_size),
            interpolation="nearest",
        )
        self._bar(axis, ScalarMappable(norm, ATTENTION_COLOURS), extend="max")
        self._outline(axis, cell, weights.shape, number)
        self._mark(axis, number)
        self._finish(axis, f"{title}, own {float(percent[cell]):.2g} %")

    def save(self, file: str | Path) -> Path:
        """Write the figure to a picture file, whose folder is created, and return the file."""
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_figure(self.figure, file, dpi=110)
        return file

    def _mark(self, axis: Axes, number: int) -> None:
        x, y = self.points[number]
        colour = _colour(number)
        axis.plot(x, y, "o", ms=9, mfc="none", mec="black", mew=3.5)
        axis.plot(x, y, "o", ms=9, mfc="none", mec=colour, mew=1.8)
        if len(self.points) > 1:
            label = dict(boxstyle="round,pad=0.15", fc="black", ec="none", alpha=0.7)
            axis.annotate(
                str(number + 1), (x, y), (7, 7), textcoords="offset points", color=colour, size=8, bbox=label
            )

    def _outline(self, axis: Axes, cell: tuple[int, int], size: Sequence[int], number: int) -> None:
        """Draw the outline of the cell that contains the point."""
        height, width = (whole / cells for whole, cells in zip(self.batch_size, size, strict=True))
        corner = cell[1] * width, cell[0] * height
        axis.add_patch(Rectangle(corner, width, height, fill=False, ec=_colour(number), lw=1.0))

    def _bar(self, axis: Axes, image: ScalarMappable, extend: str = "neither") -> None:
        bar = self.figure.colorbar(
            image, ax=axis, fraction=0.046, pad=0.02, extend=extend, format=_scientific()
        )
        bar.ax.tick_params(labelsize=7)
        bar.ax.yaxis.get_offset_text().set_fontsize(7)

    def _finish(self, axis: Axes, title: str) -> None:
        height, width = self.picture.shape[:2]
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)


def _extent(size: Sequence[int]) -> tuple[float, float, float, float]:
    """Return matplotlib's extent of an image of (height, width, …) pixels."""
    return 0, size[1], size[0], 0


def _colour(number: int) -> str:
    return MARKS[number % len(MARKS)]


def draw_term_maps(
    seen: SeenImage, layers: Sequence[LayerMaps], points: Sequence[Point], file: str | Path
) -> Path:
    """Draw one row for each layer: the picture, |unary|, |binary|, gate, and the attention of every point.

    Columns that are empty for all layers are left out.  |unary| and |binary| of a row have the same scale of colours,
    so that they can be compared; that of the gate is centred at 0.5 and as wide as its values need.

    Args:
        seen: the image that ``layers`` were computed for.
        layers: maps of :func:`layer_maps`.
        points: those that ``layers`` were computed for.
        file: the picture to write.
    """
    parts = [name for name in PARTS if any(name in x.maps for x in layers)]
    sheet = MapSheet(seen, points, len(layers), 1 + len(parts) + len(points))
    for maps, axes in zip(layers, sheet.axes, strict=True):
        sheet.show_picture(axes[0], _row_title(maps))
        for name, axis in zip(parts, axes[1:], strict=False):
            if name in maps.maps:
                _show_part(sheet, axis, maps, name)
            else:
                axis.axis("off")
        for number, axis in enumerate(axes[1 + len(parts) :]):
            which = f" of {number + 1}" if len(points) > 1 else ""
            weights, cell = maps.attention[number].mean(0), maps.cells[number]
            sheet.show_attention(axis, weights, cell, number, f"attention{which}, %")
    return sheet.save(file)


def _row_title(maps: LayerMaps) -> str:
    return f"{maps.layer.label}, map of {maps.size[0]}×{maps.size[1]}"


def _show_part(sheet: MapSheet, axis: Axes, maps: LayerMaps, name: str) -> None:
    values = maps.maps[name]
    if name == "gate":
        reach = max(float((values - 0.5).abs().max()), 1e-3)
        norm, colours, title = Normalize(0.5 - reach, 0.5 + reach), GATE_COLOURS, "gate ω"
    else:
        norm, colours, title = Normalize(*_range_of_sizes(maps)), SIZE_COLOURS, f"|{name}|"
        title += " before gate" if name == "binary" and "gate" in maps.maps else ""
    sheet.show_map(axis, values, f"{title}, mean {float(values.mean()):.3g}", colours, norm)


def _range_of_sizes(maps: LayerMaps) -> tuple[float, float]:
    """Return the range of colours: from 0 where two terms are compared, else from the smallest value."""
    terms = [maps.maps[name] for name in ("unary", "binary") if name in maps.maps]
    lowest = 0.0 if len(terms) > 1 else float(terms[0].min())
    return lowest, max(float(values.max()) for values in terms)


def draw_heads(
    seen: SeenImage, layers: Sequence[LayerMaps], points: Sequence[Point], number: int, file: str | Path
) -> Path:
    """Draw the attention of one point: one row for each layer, one column for each head.

    Args:
        seen: the image that ``layers`` were computed for.
        layers: maps of :func:`layer_maps`.
        points: those that ``layers`` were computed for.
        number: index of the point, from 0.
        file: the picture to write.
    """
    sheet = MapSheet(seen, points, len(layers), 1 + max(len(maps.attention[number]) for maps in layers))
    for maps, axes in zip(layers, sheet.axes, strict=True):
        sheet.show_picture(axes[0], _row_title(maps))
        for head, (axis, weights) in enumerate(zip(axes[1:], maps.attention[number], strict=True), start=1):
            sheet.show_attention(axis, weights, maps.cells[number], number, f"head {head}, %")
    return sheet.save(file)
