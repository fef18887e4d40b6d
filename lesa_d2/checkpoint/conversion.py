"""Convert checkpoint files of others to ours: what ``lesa convert`` does.

The file written holds ``{"model": {name: tensor}}`` in the format of detectron2's model zoo, free of pickled
objects; named .safetensors, it is in that format.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from ..errors import CheckpointError, listed
from ..storage import whole_file, write_text
from .architecture import check_backbone_shapes
from .foreign import Notes, Origin, author_of, to_our_names
from .kinds import KINDS, kind_of
from .names import (
    BACKBONE,
    CLASSIFIER,
    CLASSIFIER_NAMES,
    DERIVED,
    HTC_NAMES,
    MASK_RCNN_NAMES,
    of_classifier,
    strip_prefixes,
)
from .official import StateDict, convert_classifier, convert_detector
from .reading import read_checkpoint
from .safetensors import write_safetensors
from .start import classifier_to_detector

OTHER_FORMATS = (".pkl", ".pyth", ".txt")
"""Suffixes of files that detectron2 reads differently, and of our listing."""
ACTIONS = ("renamed", "converted", "added", "dropped")


@dataclass(frozen=True)
class Options:
    """Say what a file does not show.

    ``author`` is as from :func:`author_of`, ``origin`` that of the config that the file belongs to.
    ``keep_positions`` keeps the decomposed position tables of a classifier for a detector.
    """

    author: str = ""
    origin: Origin | None = None
    keep_positions: bool = False


@dataclass(frozen=True)
class Row:
    """Describe one tensor: its names in the file and in the result, "" for none, and what was done."""

    source: str
    target: str
    shape: tuple[int, ...]
    action: str
    note: str = ""

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Conversion:
    """Hold converted weights, where each tensor comes from, and a description of the network where known."""

    weights: StateDict
    rows: list[Row]
    network: str = ""

    def summary(self) -> str:
        """Return a table of the sections of the model: tensors and elements written, and what was done."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(_group(row.target or row.source), []).append(row)
        lines = [_summary_line(name, rows) for name, rows in groups.items()]
        headers = ["", "tensors", "elements", *ACTIONS]
        align = ("left", *["right"] * (len(headers) - 1))
        lines.append(_summary_line("all", self.rows))
        table = tabulate(lines, headers=headers, colalign=align, disable_numparse=True)
        return f"{self.network}\n\n{table}" if self.network else table

    def listing(self) -> str:
        """Return a table of every tensor."""
        rows = [
            [row.source, row.target, "×".join(map(str, row.shape)), row.action, row.note] for row in self.rows
        ]
        headers = ["in the file", "written as", "shape", "", ""]
        return tabulate(rows, headers=headers, disable_numparse=True) + "\n"


def convert_file(
    kind: str,
    source: str | Path,
    target: str | Path,
    *,
    force: bool = False,
    unsafe: bool = False,
    origin: Origin | None = None,
    keep_positions: bool = False,
) -> Conversion:
    """Convert the checkpoint ``source`` and write ``target``, and its listing beside it as ``.txt``.

    Args:
        kind: one of ``CONVERSIONS``.
        source: the file to read, or an address as for :func:`read_checkpoint`.
        target: the ``.pth`` or ``.safetensors`` file to write.
        force: replace files that exist.
        unsafe: unpickle objects, which can run code from the file.
        origin: of the model that the weights were trained with, for files that do not show it.
        keep_positions: see :func:`classifier_to_detector`.

    Raises:
        CheckpointError: a file cannot be read, or ``source`` is not of this kind.
    """
    target = Path(target)
    check_target(source, target, force)
    checkpoint = read_checkpoint(source, unsafe)
    state_dict = dict(checkpoint["model"])
    convert = _find_conversion(kind, state_dict, source)
    try:
        conversion = convert(state_dict, Options(author_of(checkpoint), origin, keep_positions))
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    write_weights(conversion.weights, target, conversion.listing())
    return conversion


def write_weights(weights: StateDict, target: Path, listing: str) -> None:
    """Write weights to ``target``, and the text ``listing`` beside it as ``.txt``, each as a whole or not at all.

    Raises:
        StorageError: a file cannot be written.
    """
    plain = {name: _plain(value) for name, value in weights.items()}
    write_text(target.with_suffix(".txt"), listing)
    with whole_file(target) as file:
        _save(plain, file, target.suffix)


def _save(weights: StateDict, file: Path, suffix: str) -> None:
    if suffix == ".safetensors":
        write_safetensors(weights, file)
    else:
        torch.save({"model": weights, "__author__": "lesa_d2", "matching_heuristics": False}, file)


def _find_conversion(kind: str, state_dict: StateDict, file: str | Path) -> "Convert":
    """Return the conversion ``kind``; CheckpointError when the file is of another kind."""
    if kind not in CONVERSIONS:
        raise CheckpointError(f"unknown kind {kind!r}; expected one of {', '.join(CONVERSIONS)}")
    actual = kind_of(state_dict)
    if actual in CONVERSIONS[kind]:
        return BY_KIND[actual]
    wanted = f"not like {KINDS[CONVERSIONS[kind][0]]}, which --from {kind} takes"
    if not actual:
        names = listed(list(state_dict))
        raise CheckpointError(f"{file} looks like none of the known kinds, {wanted}: it has {names}")
    name = next((name for name, kinds in CONVERSIONS.items() if actual in kinds), "")
    advice = f"use --from {name}" if name and actual != "detector" else "it needs no conversion"
    if kind == "imagenet-to-detector" and actual in ("official-imagenet", "torchvision"):
        advice += ", then --from imagenet-to-detector on the result"
    raise CheckpointError(f"{file} looks like {KINDS[actual]}, {wanted}; {advice}")


def _convert_classifier(state_dict: StateDict, options: Options) -> Conversion:
    bare = of_classifier(state_dict)
    converted = convert_classifier(bare)
    network = check_backbone_shapes(converted)
    targets = [CLASSIFIER + str(CLASSIFIER_NAMES.ours(key)) for key in bare]
    weights = {CLASSIFIER + name: value for name, value in converted.items()}
    return Conversion(weights, _official_rows(state_dict, targets, weights), network)


def _convert_detector(state_dict: StateDict, options: Options) -> Conversion:
    to_our_names(
        state_dict, author=options.author, origin=options.origin
    )  # refuses mmdetection's Caffe style
    weights = convert_detector(state_dict)
    trunk = {name: value for name, value in weights.items() if name.startswith(BACKBONE)}
    network = check_backbone_shapes(strip_prefixes(trunk, (BACKBONE,)))
    is_cascade = any(name.startswith("roi_heads.semantic_head.") for name in weights)
    names = HTC_NAMES if is_cascade else MASK_RCNN_NAMES
    targets = [str(names.ours(key)) for key in strip_prefixes(state_dict, ("module.",))]
    return Conversion(weights, _official_rows(state_dict, targets, weights), network)


def _official_rows(state_dict: StateDict, targets: list[str], weights: StateDict) -> list[Row]:
    notes = {name: "follows from the table's size" for name in targets if name.endswith(DERIVED)}
    for name, value in zip(targets, state_dict.values(), strict=True):
        if name in weights and weights[name].shape != value.shape:
            notes[name] = "1-D projection given its fourth axis"
    return _rows(state_dict, targets, weights, notes)


def _convert_foreign(state_dict: StateDict, options: Options) -> Conversion:
    """Convert a file whose tensors may be any part of a model."""
    weights, notes = to_our_names(state_dict, author=options.author, origin=options.origin)
    prefix = BACKBONE if any(name.startswith(BACKBONE) for name in weights) else CLASSIFIER
    trunk = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    trunk = {name: value for name, value in trunk.items() if name.startswith(("stem.", "res"))}
    return Conversion(weights, _foreign_rows(state_dict, weights, notes), check_backbone_shapes(trunk))


def _foreign_rows(state_dict: StateDict, weights: StateDict, notes: Notes) -> list[Row]:
    rows = []
    for name, value in weights.items():
        source = notes.renamed.get(name, name)
        note = notes.converted.get(name, "")
        action = "added" if source not in state_dict else "converted" if note else "renamed"
        rows.append(Row(source if source in state_dict else "", name, tuple(value.shape), action, note))
    used = {row.source for row in rows}
    return rows + [
        Row(key, "", tuple(value.shape), "dropped") for key, value in state_dict.items() if key not in used
    ]


def _convert_to_detector(state_dict: StateDict, options: Options) -> Conversion:
    state_dict = strip_prefixes(state_dict, ("module.",))
    start = classifier_to_detector(state_dict, keep_positions=options.keep_positions)
    targets = [
        name if name in start.dropped else BACKBONE + name.removeprefix(CLASSIFIER) for name in state_dict
    ]
    return Conversion(
        start.weights, _rows(state_dict, targets, start.weights, start.dropped | start.converted)
    )


def _rows(state_dict: StateDict, targets: list[str], weights: StateDict, notes: dict[str, str]) -> list[Row]:
    """Return a row a tensor; what is not in ``weights`` under its name among ``targets`` is dropped."""
    rows = []
    for (source, value), target in zip(state_dict.items(), targets, strict=True):
        note = notes.get(target, "")
        if target in weights:
            shape = tuple(weights[target].shape)
            rows.append(Row(source, target, shape, "converted" if note else "renamed", note))
        else:
            rows.append(Row(source, "", tuple(value.shape), "dropped", note))
    for name in sorted(weights.keys() - set(targets)):
        note = "counter that older files lack: 0"
        rows.append(Row("", name, tuple(weights[name].shape), "added", note))
    return rows


Convert = Callable[[StateDict, Options], Conversion]
BY_KIND: dict[str, Convert] = {
    "official-imagenet": _convert_classifier,
    "official-detector": _convert_detector,
    "torchvision": _convert_classifier,
    "torchvision-detector": _convert_foreign,
    "detector": _convert_foreign,
    "detectron2-imagenet": _convert_foreign,
    "caffe2-imagenet": _convert_foreign,
    "caffe2-detector": _convert_foreign,
    "classifier": _convert_to_detector,
}
CONVERSIONS: dict[str, tuple[str, ...]] = {
    "official-imagenet": ("official-imagenet",),
    "official-detector": ("official-detector",),
    "torchvision": ("torchvision", "torchvision-detector"),
    "timm": ("torchvision",),
    "mmdetection": ("official-detector", "torchvision"),
    "detectron2": ("detectron2-imagenet", "detector", "caffe2-imagenet", "caffe2-detector"),
    "imagenet-to-detector": ("classifier",),
}
"""What ``lesa convert --from`` takes, and the kinds of files that each is for."""


def _group(name: str) -> str:
    """Return the section of a model that a tensor, by any of its names, belongs to."""
    section = re.sub(r"^(module\.|backbone\.|bottom_up\.|roi_heads\.)+", "", name).split(".")[0]
    if section.startswith("layer"):  # dropped ones have only their own name
        return f"res{int(section[5:]) + 1}"
    section = re.sub(r"^fpn_.*", "fpn", section)
    return {"proposal_generator": "rpn", "linear": "classifier"}.get(section, section.replace("_", " "))


def _summary_line(name: str, rows: list[Row]) -> list[str]:
    written = [row for row in rows if row.target]
    counts = [str(sum(row.action == action for row in rows)) for action in ACTIONS]
    return [name, str(len(written)), f"{sum(row.elements for row in written):,}", *counts]


def _plain(value: Tensor) -> Tensor:
    """Return a contiguous copy: a slice would be saved with all that it was cut from."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def check_target(source: str | Path, target: Path, force: bool) -> None:
    """Check that ``target`` and its listing can be written without loss.

    Raises:
        CheckpointError: they exist without ``force``, would replace the source, or have no folder.
    """
    source, listing = Path(source), target.with_suffix(".txt")
    if target.suffix in OTHER_FORMATS:
        raise CheckpointError(f"{target}: detectron2 reads {target.suffix} files differently; name it .pth")
    if not target.parent.is_dir():
        raise CheckpointError(f"there is no folder {target.parent} for {target.name}; make it first")
    for file in (target, listing):
        if file.exists() and source.exists() and file.samefile(source):
            raise CheckpointError(f"{file} would replace the source; give another name for the result")
        if file.is_dir():
            raise CheckpointError(f"{file} is a folder; give the name of a file")
        if file.exists() and not force:
            raise CheckpointError(f"{file} exists; give another name, or --force to replace it")
