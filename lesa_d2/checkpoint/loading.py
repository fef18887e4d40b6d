"""Loading weights with a report of what was loaded, and an error where the rest would pass silently."""

import math
import os
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import Checkpointer, DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from torch import Tensor, nn

from ..errors import CheckpointError, listed
from ..layers.positions import resize_offsets
from .names import BACKBONE
from .start import CLASSIFIER, DetectorStart, classifier_to_detector, is_classifier

BACKBONES = (BACKBONE, CLASSIFIER)
CLASS_COUNTS = {  # the weight with a row a class -> the config's key, rows beside the classes
    "roi_heads.box_predictor.cls_score.weight": ("model.roi_heads.num_classes", 1),
    "backbone.linear.weight": ("model.backbone.num_classes", 0),
}
TABLE = re.compile(r".*\.positions\.rel_(height|width)")
# What a detector has and a classifier cannot give: position tables of its layout, deformable layers' offsets.
FRESH = re.compile(TABLE.pattern + r"|.*\.offset\.(weight|bias)")
FOREIGN = re.compile(r"(module\.)?(backbone\.)?layer[1-4]\.\d+\.")
COUNTER = "num_batches_tracked"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint gave a model.

    ``loaded`` and ``missing`` (in the model only) map names to shapes, ``unexpected`` are names in the file
    only, ``mismatched`` maps names to (shape in the file, shape in the model).  Where a detector starts from
    a classifier, ``converted`` says what was done to tensors and ``dropped`` why tensors of the file are not
    used.  ``fresh`` are those missing ones that may well start at their initial value.
    ``backbone`` is the prefix of the backbone's names.
    """

    path: str
    loaded: dict[str, Shape] = field(default_factory=dict)
    missing: dict[str, Shape] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()
    backbone: str = BACKBONE

    def share(self, prefix: str = "") -> float:
        """Share of the model's elements under ``prefix`` that were loaded; 1 where there are none."""
        loaded, missing = (_elements(shapes, prefix) for shapes in (self.loaded, self.missing))
        return loaded / (loaded + missing) if loaded + missing else 1.0

    def convolutions(self) -> tuple[int, int]:
        """How many of the backbone's convolutions were loaded, and how many it has."""
        loaded, missing = (
            sum(name.startswith(self.backbone) and len(shape) == 4 for name, shape in shapes.items())
            for shapes in (self.loaded, self.missing)
        )
        return loaded, loaded + missing

    def summary(self) -> str:
        if not self.path:
            return "none: from scratch"
        loaded, total = self.convolutions()
        return (
            f"{self.share():.1%} of the model ({self.share(self.backbone):.1%} of the backbone, {loaded} of "
            f"its {total} convolutions) from {self.path}; {len(self.converted)} tensors converted, "
            f"{len(self.missing)} at their initial value, "
            f"{len(self.unexpected) + len(self.dropped)} unused in the file"
        )

    def table(self) -> str:
        """Every tensor of model and file: loaded, converted, at its initial value, or not used."""
        rows: list[tuple[str, Shape | str, str]] = [
            (name, shape, f"converted: {self.converted[name]}" if name in self.converted else "loaded")
            for name, shape in self.loaded.items()
        ]
        rows += [(name, shape, self._why_missing(name)) for name, shape in self.missing.items()]
        rows += [(name, "", f"not used: {why}") for name, why in self.dropped.items()]
        rows += [(name, "", "not used: unknown to the model") for name in self.unexpected]
        return tabulate(rows, headers=("tensor", "shape", "state"), tablefmt="plain", disable_numparse=True)

    def _why_missing(self, name: str) -> str:
        if name in self.mismatched:
            return f"initial value: {self.mismatched[name][0]} in the file"
        return "initial value"

    def save(self, file: str | Path) -> None:
        """Write summary and table."""
        Path(file).write_text(f"{self.summary()}\n\n{self.table()}\n", encoding="utf-8")

    def check_complete(self) -> None:
        """CheckpointError unless file and model agree name by name and shape by shape."""
        absent = [name for name in self.missing if name not in self.fresh]
        if absent or self.unexpected or self.mismatched:
            raise CheckpointError(self._explain("is not a checkpoint of this model", absent))

    def check_start(self) -> None:
        """CheckpointError unless the file fills the backbone, as far as it can, shape by shape."""
        self._check_start(not self._absent_of_backbone() and not self.mismatched)

    def check_partial_start(self) -> None:
        """CheckpointError unless the file fills half of the backbone; the rest keeps its initial value."""
        self._check_start(self.share(self.backbone) >= 0.5)

    def _absent_of_backbone(self) -> list[str]:
        return [name for name in self.missing if name.startswith(self.backbone) and name not in self.fresh]

    def _check_start(self, is_good: bool) -> None:
        if not is_good:
            raise CheckpointError(
                self._explain("cannot start this model", self._absent_of_backbone())
                + "\nUse the weights of this architecture, or accept a partial start with "
                "train.init_partial=True (at least half of the backbone must fit)."
            )

    def _explain(self, verdict: str, missing: list[str]) -> str:
        fits = math.floor(1000 * self.share(self.backbone)) / 10  # 100 only where all of it does
        lines = [f"{self.path} {verdict}: {fits:g}% of the backbone fits."]
        for name, (key, others) in CLASS_COUNTS.items():
            if name in self.mismatched:
                theirs, ours = (shape[0] - others for shape in self.mismatched[name])
                lines.append(f"  number of classes: the file has {theirs}, {key} is {ours}")
        if any(name.startswith("stem.") for name in self.unexpected):
            lines.append(f"  the file holds a bare backbone: its names need the prefix {self.backbone!r}")
        if any(FOREIGN.match(name) for name in self.unexpected):
            lines.append(
                "  the file has the names of torchvision or of the authors' release: convert it first, by "
                "projects/LESA/convert_checkpoint.py"
            )
        shapes = [f"{name} {a} in the file, {b} expected" for name, (a, b) in self.mismatched.items()]
        missing = [name for name in missing if name not in self.mismatched]
        for title, names in (
            ("other shapes", shapes),
            ("missing in the file", missing),
            ("unknown to the model", self.unexpected),
        ):
            if names:
                lines.append(f"  {title}: {listed(names)}")
        return "\n".join(lines)


def _elements(shapes: dict[str, Shape], prefix: str) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))


class ReportingCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer that keeps a :class:`LoadReport` of the last load."""

    report = LoadReport(path="")

    def load(
        self,
        path: str,
        checkpointables: list[str] | None = None,
        check: Callable[[LoadReport], None] = LoadReport.check_complete,
    ) -> dict[str, Any]:
        """Load the model, and the ``checkpointables`` (None: all) once ``check`` accepts the report.

        Raises:
            CheckpointError: no such file, not readable, or ``check`` refused it.
        """
        return self._load(path, checkpointables, check, starting=False)

    def start_from(self, path: str, check: Callable[[LoadReport], None] = LoadReport.check_start) -> None:
        """Load the model alone, to train it further; a detector also starts from the weights of a classifier.

        Raises:
            CheckpointError: as :meth:`load`.
        """
        self._load(path, [], check, starting=True)

    def _load(
        self,
        path: str,
        checkpointables: list[str] | None,
        check: Callable[[LoadReport], None],
        starting: bool,
    ) -> dict[str, Any]:
        _fetch(path)
        self._path, self._check, self._starting = path, check, starting
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith((".pkl", ".pyth")):
            raise CheckpointError(
                f"{filename} is in a format of pickled objects; expected a .pth file of plain tensors"
            )
        loaded = super()._load_file(filename)
        weights = loaded.get("model")
        if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
            raise CheckpointError(
                f"{filename} holds no weights: expected tensors by name, bare or under the key 'model'"
            )
        return loaded

    def _torch_load(self, f: str) -> dict[str, Any]:
        try:
            loaded = torch.load(f, map_location="cpu", weights_only=True)
            return loaded if isinstance(loaded, dict) else {"model": loaded}
        except Exception as error:
            raise CheckpointError(
                f"{f} cannot be read ({type(error).__name__}); expected a file of plain tensors written by "
                "torch.save, complete and without pickled objects"
            ) from error

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        start = self._detector_start(checkpoint["model"]) if self._starting else None
        if start is not None:
            checkpoint["model"] = start.weights
        resized = self._resize_tables(checkpoint["model"]) if self._starting else {}
        given = {name.removeprefix("module.") for name in checkpoint["model"]}  # of data parallel models
        incompatible = super()._load_model(checkpoint)
        self.report = _report(self._path, self.model, given, incompatible)
        if self._starting:
            converted = {**(start.converted if start else {}), **resized}
            self.report = replace(
                self.report,
                converted={name: how for name, how in converted.items() if name in self.report.loaded},
                dropped=start.dropped if start else {},
                fresh=self.report.fresh | {name for name in self.report.missing if FRESH.fullmatch(name)},
            )
        self._check(self.report)
        return incompatible

    def _resize_tables(self, weights: dict[str, Any]) -> dict[str, str]:
        """Interpolate position tables, in place, to the model's size; returns what was done, by name."""
        model, done = unwrap(self.model).state_dict(), {}
        for name, value in weights.items():
            ours = model.get(name)
            if not TABLE.fullmatch(name) or ours is None or ours.shape == value.shape:
                continue
            if ours.shape[1:] == value.shape[1:]:
                weights[name] = resize_offsets(value, (len(ours) + 1) // 2, 0)
                done[name] = f"interpolated from {len(value)} to {len(ours)} offsets"
        return done

    def _detector_start(self, weights: dict[str, Any]) -> DetectorStart | None:
        """What the weights of a classifier give the detector; None where the two are not such a pair."""
        is_detector = any(name.startswith(BACKBONE) for name in unwrap(self.model).state_dict())
        return classifier_to_detector(weights) if is_detector and is_classifier(weights) else None

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """The report says it, in fewer lines."""


def _fetch(path: str) -> None:
    """CheckpointError unless ``path``, local or of any prefix that detectron2 knows, leads to a file."""
    try:
        local = PathManager.get_local_path(path)
    except CheckpointError:  # our own prefix says itself how to get the weights
        raise
    except Exception as error:  # what a download raises depends on its protocol
        raise CheckpointError(f"checkpoint {path!r} cannot be fetched: {error}") from error
    if not os.path.isfile(local):
        raise CheckpointError(f"checkpoint {path!r} does not exist; give the path of a .pth file")


class WeightsWriter(Checkpointer):
    """Writes a model's weights beside a run's checkpoints, without becoming what ``--resume`` continues."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """``last_checkpoint`` keeps naming the last complete state."""


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, or the module itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _report(path: str, model: nn.Module, given: Container[str], incompatible: Any) -> LoadReport:
    """``given`` are the names in the file."""
    state = unwrap(model).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    mismatched = {name: (tuple(theirs), tuple(ours)) for name, theirs, ours in incompatible.incorrect_shapes}
    # torch makes up counters of batches that a file lacks, and does not call them missing
    counters = {name for name in shapes if name.endswith(COUNTER) and name not in given}
    absent = set(incompatible.missing_keys) | set(mismatched) | counters
    return LoadReport(
        path=path,
        loaded={name: shape for name, shape in shapes.items() if name not in absent},
        missing={name: shape for name, shape in shapes.items() if name in absent},
        unexpected=list(incompatible.unexpected_keys),
        mismatched=mismatched,
        fresh=frozenset(counters),
        backbone=next((p for p in BACKBONES if any(name.startswith(p) for name in shapes)), BACKBONE),
    )
