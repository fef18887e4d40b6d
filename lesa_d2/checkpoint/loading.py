"""Load weights into a model, with a report of what fits and an error where the rest would pass silently."""

import copy
import os
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError
from ..layers.positions import resize_offsets
from ..modeling import SlotBottleneck
from .convolution import COPIED, FRESH_VALUE, convolution_to_lesa, slot_operators
from .foreign import Notes, author_of, fit_to_images, match_by_ends, to_our_names, translate
from .kinds import kind_of
from .names import BACKBONE, CLASSIFIER, COUNTER, TABLE, strip_prefixes
from .reading import read_checkpoint
from .report import LoadReport, SlotStart
from .start import classifier_to_detector

# What a detector has and a classifier cannot give: position tables of its layout, deformable layers' offsets.
FRESH = re.compile(TABLE.pattern + r"|.*\.offset\.(weight|bias)")
OF_CONFIG = re.compile(r"pixel_(mean|std)|.*\.anchor_generator\.cell_anchors\.\d+")
"""What older files of detectron2 hold beside weights; its models now take it from the config."""

Weights = MutableMapping[str, Tensor]
Check = Callable[[LoadReport], None]
Images = Callable[[], Sequence[Tensor]]


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    start: bool = False,
    check: Check | None = None,
    weights: Weights | None = None,
    keep_positions: bool = False,
    images: Images = tuple,
) -> LoadReport:
    """Load the weights of a file into ``model``, in place.

    Names of other code bases become ours (:func:`to_our_names`).  A model of detectron2 without our blocks takes
    the names of the file, or matches their ends where file or address say so, as detectron2 does.

    Args:
        model: may be wrapped in DistributedDataParallel.
        path: as for :func:`read_checkpoint`.
        start: the weights are what training starts from: a detector also takes those of a classifier, and
            the decomposed position tables of another detector are interpolated to the model's size.
        check: raises for a report that is not good enough.  None is ``LoadReport.check_complete``, or with
            ``start`` ``LoadReport.check_start``.
        weights: tensors by name that were read from ``path`` already.
        keep_positions: with ``start``, also interpolate the decomposed position tables of a classifier; else
            those of a detector keep their initial values.
        images: with ``start``, called where the file has convolutions in place of the model's operators; returns
            what :func:`convolution_to_lesa` takes.

    Raises:
        CheckpointError: there is no such file, it cannot be read, or ``check`` refuses it; the model is then
            unchanged.
    """
    checkpoint = read_checkpoint(path) if weights is None else {"model": weights}
    matched, report = _match(model, checkpoint, str(path), start, keep_positions, images)
    (check or (LoadReport.check_start if start else LoadReport.check_complete))(report)
    # With the values that stay, so that no part takes what it gets for a file of which the rest does not fit.
    unwrap(model).load_state_dict({**unwrap(model).state_dict(), **matched}, strict=False)
    return report


def load_evaluated_weights(model: nn.Module, path: str | os.PathLike) -> LoadReport:
    """Load the weights that training evaluated: the average where the checkpoint holds one, else the model's.

    Raises:
        CheckpointError: as for :func:`load_weights`, or file and model do not agree.
    """
    checkpoint = read_checkpoint(path)
    average = checkpoint.get("ema")
    is_averaged = False
    if isinstance(average, Mapping) and average.get("n_averaged", 0) > 0:  # of torch's AveragedModel
        is_averaged = True
        checkpoint["model"] = {name: value for name, value in average.items() if name != "n_averaged"}
    matched, report = _match(model, checkpoint, str(path), start=False, keep_positions=False)
    report.check_complete()
    unwrap(model).load_state_dict(matched, strict=False)
    return replace(report, averaged=is_averaged)


def compare_weights(
    model: nn.Module, path: str | os.PathLike, *, start: bool = False, keep_positions: bool = False
) -> LoadReport:
    """Report what :func:`load_weights` would do, without a check; ``model`` stays unchanged."""
    return _match(model, read_checkpoint(path), str(path), start, keep_positions)[1]


def _match(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    path: str,
    start: bool,
    keep_positions: bool,
    images: Images = tuple,
) -> tuple[Weights, LoadReport]:
    """Return the tensors that fit, under the names of the model, and the report."""
    state = unwrap(model).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    weights, notes = _named(unwrap(model), checkpoint, path)
    converted, renamed = dict(notes.converted), dict(notes.renamed)
    derived = [name for name in weights if OF_CONFIG.fullmatch(name) and name not in shapes]
    dropped = dict.fromkeys(derived, "follows from the config")
    weights = {name: value for name, value in weights.items() if name not in dropped}
    slots: tuple[SlotStart, ...] = ()
    if start:
        if any(name.startswith(BACKBONE) for name in shapes) and kind_of(weights) == "classifier":
            given = classifier_to_detector(weights, keep_positions=keep_positions)
            weights, dropped = given.weights, dropped | given.dropped
            converted, renamed = _of_detector(converted) | given.converted, _of_detector(renamed)
            converted |= _of_images(unwrap(model), given.weights, path, bool(renamed))
        converted |= _resize_tables(weights, shapes)
        weights, of_slots, slots = _fill_slots(unwrap(model), weights, path, images)
        converted |= of_slots
    report = replace(_report(path, shapes, weights), operators=_operators(unwrap(model)))
    for name in (*report.mismatched, *report.unexpected):
        del weights[name]
    report = replace(
        report,
        renamed={name: key for name, key in renamed.items() if name in report.loaded},
        converted={name: how for name, how in converted.items() if name in report.loaded},
        dropped=dropped,
    )
    if start:
        fresh = {name for name in report.missing if FRESH.fullmatch(name)}
        if slots:  # what a convolution cannot give, inside the operators
            fresh |= {name for name in report.missing if name.startswith(report.operators)}
        report = replace(report, fresh=report.fresh | fresh, slots=slots)
    return weights, report


def _operators(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the operators' names in a model."""
    return tuple(f"{name}." for name in slot_operators(model))


def _fill_slots(
    model: nn.Module, weights: Weights, path: str, images: Images
) -> tuple[Weights, dict[str, str], tuple[SlotStart, ...]]:
    """Convert the 3×3 convolutions of a file for the operators in whose slots they are.

    Returns:
        The weights, what was done to them by name, and reports on the slots; nothing is done for a file without
        convolutions in the slots.
    """
    slots, own = _operators(model), model.state_dict()
    if not any(f"{slot}weight" in weights and f"{slot}weight" not in own for slot in slots):
        return weights, {}, ()
    prefix = BACKBONE if slots[0].startswith(BACKBONE) else CLASSIFIER
    trunk = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    backbone = model.get_submodule(prefix.rstrip("."))
    if any(
        parameter.is_meta for parameter in backbone.parameters()
    ):  # of a comparison, which needs no values
        backbone = copy.deepcopy(backbone).to_empty(device="cpu")
        for value in backbone.state_dict().values():
            value.zero_()
    try:
        start = convolution_to_lesa(trunk, backbone, images())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    rest = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    given = {
        prefix + name: value for name, value in start.weights.items() if start.notes[name] != FRESH_VALUE
    }
    notes = {prefix + name: note for name, note in start.notes.items() if note not in (COPIED, FRESH_VALUE)}
    return {**rest, **given}, notes, tuple(start.slots)


def _named(model: nn.Module, checkpoint: Mapping[str, Any], path: str) -> tuple[Weights, Notes]:
    """Return weights under the names of the model, and what was done to them."""
    weights, author = strip_prefixes(checkpoint["model"], ("module.",)), author_of(checkpoint)
    if any(isinstance(module, SlotBottleneck) for module in model.modules()):
        try:
            return to_our_names(weights, author=author)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
    if checkpoint.get("matching_heuristics"):
        return match_by_ends(model, weights, author)
    return translate(weights)


def _of_images(model: nn.Module, weights: dict[str, Tensor], path: str, is_foreign: bool) -> dict[str, str]:
    try:
        return fit_to_images(model, weights, is_foreign)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _of_detector(notes: Mapping[str, str]) -> dict[str, str]:
    return {BACKBONE + name.removeprefix(CLASSIFIER): note for name, note in notes.items()}


def _resize_tables(weights: Weights, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Interpolate position tables, in place, to the model's size; return what was done, by name."""
    done = {}
    for name, value in weights.items():
        ours = shapes.get(name)
        if not TABLE.fullmatch(name) or ours is None or ours == value.shape or ours[1:] != value.shape[1:]:
            continue
        weights[name] = resize_offsets(value, (ours[0] + 1) // 2, 0)
        done[name] = f"interpolated from {len(value)} to {ours[0]} offsets"
    return done


def _report(path: str, shapes: Mapping[str, tuple[int, ...]], weights: Weights) -> LoadReport:
    mismatched = {
        name: (tuple(value.shape), shapes[name])
        for name, value in weights.items()
        if name in shapes and shapes[name] != tuple(value.shape)
    }
    loaded = {name: shape for name, shape in shapes.items() if name in weights and name not in mismatched}
    missing = {name: shape for name, shape in shapes.items() if name not in loaded}
    return LoadReport(
        path=path,
        loaded=loaded,
        missing=missing,
        unexpected=[name for name in weights if name not in shapes],
        mismatched=mismatched,
        # older files lack the counters of batches, which torch then leaves as they are
        fresh=frozenset(name for name in missing if name.endswith(COUNTER)),
        backbone=next(
            (p for p in (BACKBONE, CLASSIFIER) if any(name.startswith(p) for name in shapes)), BACKBONE
        ),
    )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel, or the module itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
