"""Loading weights with a report of what was loaded, and an error where the rest would pass silently."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.checkpoint import Checkpointer, DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from ..errors import CheckpointError
from .names import BACKBONE

CLASS_COUNT = "roi_heads.box_predictor.cls_score.weight"
SHOWN = 6  # names listed in a message before "and N more"


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint gave a model.

    ``loaded`` and ``missing`` (in the model only) map names to numbers of elements, ``unexpected`` are names
    in the file only, ``mismatched`` maps names to (shape in the file, shape in the model).
    """

    path: str
    loaded: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def share(self, prefix: str = "") -> float:
        """Share of the model's elements under ``prefix`` that were loaded; 1 where there are none."""
        loaded = sum(size for name, size in self.loaded.items() if name.startswith(prefix))
        total = loaded + sum(size for name, size in self.missing.items() if name.startswith(prefix))
        return loaded / total if total else 1.0

    def summary(self) -> str:
        if not self.path:
            return "none: from scratch"
        return (
            f"{self.share():.1%} of the model ({self.share(BACKBONE):.1%} of the backbone) from {self.path}; "
            f"{len(self.missing)} tensors at their initial value, {len(self.unexpected)} unused in the file"
        )

    def check_complete(self) -> None:
        """CheckpointError unless file and model agree name by name and shape by shape."""
        if self.missing or self.unexpected or self.mismatched:
            raise CheckpointError(self._explain("is not a checkpoint of this model"))

    def check_start(self) -> None:
        """CheckpointError unless the file fills the whole backbone and nothing has another shape."""
        self._check_start(least=1.0, allow_mismatch=False)

    def check_partial_start(self) -> None:
        """CheckpointError unless the file fills half of the backbone; the rest keeps its initial value."""
        self._check_start(least=0.5, allow_mismatch=True)

    def _check_start(self, least: float, allow_mismatch: bool) -> None:
        if self.share(BACKBONE) < least or (self.mismatched and not allow_mismatch):
            raise CheckpointError(
                self._explain("cannot start this model")
                + "\nUse the weights of this architecture, or accept a partial start with "
                "train.init_partial=True (at least half of the backbone must fit)."
            )

    def _explain(self, verdict: str) -> str:
        lines = [f"{self.path} {verdict}: {self.share(BACKBONE):.0%} of the backbone fits."]
        if CLASS_COUNT in self.mismatched:
            theirs, ours = (shape[0] - 1 for shape in self.mismatched[CLASS_COUNT])
            lines.append(f"  number of classes: the file has {theirs}, model.roi_heads.num_classes is {ours}")
        if any(name.startswith("stem.") for name in self.unexpected):
            lines.append(f"  the file holds a bare backbone: its names need the prefix {BACKBONE!r}")
        shapes = [f"{name} {a} in the file, {b} expected" for name, (a, b) in self.mismatched.items()]
        missing = [name for name in self.missing if name not in self.mismatched]
        for title, names in (
            ("other shapes", shapes),
            ("missing in the file", missing),
            ("unknown to the model", self.unexpected),
        ):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"  {title}: " + ", ".join(names[:SHOWN]) + more)
        return "\n".join(lines)


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
        _fetch(path)
        self._path, self._check = path, check
        return super().load(path, checkpointables)

    def _torch_load(self, f: str) -> dict[str, Any]:
        try:
            return torch.load(f, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{f} cannot be read ({type(error).__name__}); expected a file of plain tensors written by "
                "torch.save, complete and without pickled objects"
            ) from error

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        self.report = _report(self._path, self.model, incompatible)
        self._check(self.report)
        return incompatible

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


def _report(path: str, model: nn.Module, incompatible: Any) -> LoadReport:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    sizes = {name: value.numel() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    mismatched = {name: (tuple(theirs), tuple(ours)) for name, theirs, ours in incompatible.incorrect_shapes}
    absent = set(incompatible.missing_keys) | set(mismatched)
    return LoadReport(
        path=path,
        loaded={name: size for name, size in sizes.items() if name not in absent},
        missing={name: size for name, size in sizes.items() if name in absent},
        unexpected=list(incompatible.unexpected_keys),
        mismatched=mismatched,
    )
