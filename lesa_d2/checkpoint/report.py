"""The report of what a checkpoint gives to a model, and the checks of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from ..errors import CheckpointError, listed
from ..storage import write_text
from .names import BACKBONE

CLASS_COUNTS = {  # the weight with a row a class -> the config's key, rows beside the classes
    "roi_heads.box_predictor.cls_score.weight": ("model.roi_heads.num_classes", 1),
    "backbone.linear.weight": ("model.backbone.num_classes", 0),
}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SlotStart:
    """Report on one slot that starts from a convolution: its name, what was done, and how near it comes.

    ``energy`` is the share of the weights' energy that is kept; None where nothing is factored.  ``errors`` are
    the relative errors of the term's output on the images, ‖difference‖ / ‖output‖, both centred and divided by the
    norm's deviation: first of the factorisation that knows the weights alone, then of the one that is used.  None
    without images.
    """

    name: str
    how: str
    energy: float | None = None
    errors: tuple[float, float] | None = None


def slots_table(slots: Sequence[SlotStart]) -> str:
    """Return a table with a row a slot."""
    rows = [(s.name, s.how, *map(_percent, (s.energy, *(s.errors or (None, None))))) for s in slots]
    headers = ("slot", "start", "energy kept", "error, weights alone", "error")
    return tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)


@dataclass(frozen=True)
class LoadReport:
    """Report what a checkpoint gives to a model.

    ``loaded`` and ``missing`` (in the model only) map names to shapes, ``unexpected`` are names in the file
    only, ``mismatched`` maps names to (shape in the file, shape in the model).  ``renamed`` maps names to those
    that the file has, ``converted`` says what was done to tensors and ``dropped`` why tensors of the file are
    not used.  ``fresh`` are the missing ones that may keep their initial value.  ``backbone`` is the prefix of
    the backbone's names, ``operators`` are those of the operators in its slots.  ``slots`` report on them where
    they start from convolutions.  An empty ``path`` stands for a start from scratch.
    ``averaged`` says that the weights are the average that the file holds.
    """

    path: str = ""
    loaded: dict[str, Shape] = field(default_factory=dict)
    missing: dict[str, Shape] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()
    backbone: str = BACKBONE
    operators: tuple[str, ...] = ()
    slots: tuple[SlotStart, ...] = ()
    averaged: bool = False

    def share(self, prefix: str = "", without: tuple[str, ...] = ()) -> float:
        """Return the share of the elements under ``prefix`` that are loaded; 1 where there are none.

        Names that begin with one of ``without`` do not count.
        """
        loaded, missing = (_elements(shapes, prefix, without) for shapes in (self.loaded, self.missing))
        return loaded / (loaded + missing) if loaded + missing else 1.0

    def convolutions(self) -> tuple[int, int]:
        """Return how many of the backbone's convolutions are loaded, and how many it has."""
        loaded, missing = (
            sum(name.startswith(self.backbone) and len(shape) == 4 for name, shape in shapes.items())
            for shapes in (self.loaded, self.missing)
        )
        return loaded, loaded + missing

    def summary(self) -> str:
        """Return one sentence: how much of the model and of the file fits."""
        if not self.path:
            return "none: from scratch"
        loaded, total = self.convolutions()
        averaged = " (the averaged ones in it)" if self.averaged else ""
        return (
            f"{self.share():.1%} of the model ({self.share(self.backbone):.1%} of the backbone, {loaded} of "
            f"its {total} convolutions) from {self.path}{averaged}; {len(self.renamed)} tensors renamed, "
            f"{len(self.converted)} converted, "
            f"{len(self.missing)} at their initial value, "
            f"{len(self.unexpected) + len(self.dropped)} unused in the file"
        )

    def table(self) -> str:
        """Return a table of every tensor: loaded, converted, at its initial value, or not used."""
        rows: list[tuple[str, Shape | str, str]] = [
            (name, shape, self._how_loaded(name)) for name, shape in self.loaded.items()
        ]
        rows += [(name, shape, self._why_missing(name)) for name, shape in self.missing.items()]
        rows += [(name, "", f"not used: {why}") for name, why in self.dropped.items()]
        rows += [(name, "", "not used: unknown to the model") for name in self.unexpected]
        return tabulate(rows, headers=("tensor", "shape", "state"), tablefmt="plain", disable_numparse=True)

    def _how_loaded(self, name: str) -> str:
        how = f"converted: {self.converted[name]}" if name in self.converted else "loaded"
        return f"{how}, from {self.renamed[name]}" if name in self.renamed else how

    def _why_missing(self, name: str) -> str:
        if name in self.mismatched:
            return f"initial value: {self.mismatched[name][0]} in the file"
        return "initial value"

    def text(self) -> str:
        """Return the summary and the tables."""
        parts = [self.summary(), *([slots_table(self.slots)] if self.slots else []), self.table()]
        return "\n\n".join(parts) + "\n"

    def save(self, file: str | Path) -> None:
        """Write the summary and the tables to a file."""
        write_text(file, self.text())

    def check_complete(self) -> None:
        """Check that file and model agree name by name and shape by shape; CheckpointError otherwise."""
        absent = [name for name in self.missing if name not in self.fresh]
        if absent or self.unexpected or self.mismatched:
            raise CheckpointError(self._explain("is not a checkpoint of this model", absent))

    def check_start(self) -> None:
        """Check that the file fills the backbone, as far as it can; CheckpointError otherwise."""
        self._check_start(not self._absent_of_backbone() and not self.mismatched)

    def check_partial_start(self) -> None:
        """Check that the file fills at least half of the backbone outside its slots; CheckpointError otherwise."""
        self._check_start(self.share(self.backbone, self.operators) >= 0.5)

    def _absent_of_backbone(self) -> list[str]:
        return [name for name in self.missing if name.startswith(self.backbone) and name not in self.fresh]

    def _check_start(self, is_good: bool) -> None:
        if not is_good:
            outside = self.share(self.backbone, self.operators)
            advice = "Use the weights of this architecture"
            if outside >= 0.5:
                advice += ", or accept a partial start with train.init_partial=True"
            raise CheckpointError(
                self._explain("cannot start this model", self._absent_of_backbone())
                + f"\n{advice}. Outside the slots {_floored(outside)}% of the backbone fits, and a partial start "
                "needs half."
            )

    def _explain(self, verdict: str, missing: list[str]) -> str:
        missing = [name for name in missing if name not in self.mismatched]
        found = {
            "of other shapes": self.mismatched,
            "missing in the file": missing,
            "unknown to the model": self.unexpected,
        }
        reasons = [f"{len(names)} {what}" for what, names in found.items() if names]
        lines = [
            f"{self.path} {verdict}: {_floored(self.share(self.backbone))}% of the backbone fits"
            + (f"; tensors: {', '.join(reasons)}." if reasons else ".")
        ]
        for name, (key, others) in CLASS_COUNTS.items():
            if name in self.mismatched:
                theirs, ours = (shape[0] - others for shape in self.mismatched[name])
                lines.append(f"  number of classes: the file has {theirs}, {key} is {ours}")
        if any(name.startswith("stem.") for name in self.unexpected):
            lines.append(f"  the file holds a bare backbone: its names need the prefix {self.backbone!r}")
        shapes = [f"{name} {a} in the file, {b} expected" for name, (a, b) in self.mismatched.items()]
        for title, names in (
            ("other shapes", shapes),
            ("missing in the file", missing),
            ("unknown to the model", self.unexpected),
        ):
            if names:
                lines.append(f"  {title}: {listed(names)}")
        return "\n".join(lines)


def _elements(shapes: dict[str, Shape], prefix: str, without: tuple[str, ...]) -> int:
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if name.startswith(prefix) and not name.startswith(without)
    )


def _floored(share: float) -> str:
    """Return percent with one digit, rounded down: 100 only where all of it fits."""
    return f"{math.floor(1000 * share) / 10:g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
