"""Checkpoint files of others -> ours: what ``projects/LESA/convert_checkpoint.py`` does.

The file written holds ``{"model": {name: tensor}}`` in the format of detectron2's model zoo, free of pickled
objects.
"""

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from ..errors import CheckpointError, listed
from .names import BACKBONE, BLOCKS, CLASSIFIER_NAMES, DERIVED, HTC_NAMES, MASK_RCNN_NAMES, Names
from .official import PREFIXES, StateDict, convert_classifier, convert_detector, strip_prefixes
from .shapes import check_backbone_shapes
from .start import CLASSIFIER, classifier_to_detector, is_classifier

WRAPPERS = ("net", "state_dict", "model")
"""Keys under which training scripts keep the weights."""
OTHER_FORMATS = (".pkl", ".pyth", ".txt")
"""Suffixes that detectron2 reads differently, and the report's."""

ACTIONS = ("renamed", "converted", "added", "dropped")


@dataclass(frozen=True)
class Row:
    """One tensor: its names in the file and in the result, "" where it is not there, and what was done."""

    source: str
    target: str
    shape: tuple[int, ...]
    action: str
    note: str = ""

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Conversion:
    """Converted weights and, tensor by tensor, where they come from."""

    weights: StateDict
    rows: list[Row]

    def summary(self) -> str:
        """A table of the parts of the model: tensors and elements written, and what was done."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(_group(row.target or row.source), []).append(row)
        lines = [_summary_line(name, rows) for name, rows in groups.items()]
        headers = ["", "tensors", "elements", *ACTIONS]
        align = ("left", *["right"] * (len(headers) - 1))
        lines.append(_summary_line("all", self.rows))
        return tabulate(lines, headers=headers, colalign=align, disable_numparse=True)

    def listing(self) -> str:
        """Every tensor."""
        rows = [
            [row.source, row.target, "×".join(map(str, row.shape)), row.action, row.note] for row in self.rows
        ]
        headers = ["in the file", "written as", "shape", "", ""]
        return tabulate(rows, headers=headers, disable_numparse=True) + "\n"


@dataclass(frozen=True)
class Source:
    """A kind of file: what it is, and how it is converted (None: not by this script)."""

    title: str
    convert: Callable[[StateDict], Conversion] | None = None


def convert_file(
    kind: str, source: str | Path, target: str | Path, *, force: bool = False, unsafe: bool = False
) -> Conversion:
    """Convert the checkpoint ``source`` and write ``target``, and its listing beside it as ``.txt``.

    Args:
        kind: one of ``CONVERSIONS``.
        force: replace files that exist.
        unsafe: unpickle objects, which can run code from the file.

    Raises:
        CheckpointError: a file cannot be read or written, or ``source`` is not of this kind.
    """
    source, target = Path(source), Path(target)
    listing = target.with_suffix(".txt")
    _check_target(source, target, listing, force)
    state_dict = _state_dict(read(source, unsafe), source)
    convert = _check_kind(kind, state_dict, source)
    try:
        conversion = convert(state_dict)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    checkpoint = {
        "model": {name: _plain(value) for name, value in conversion.weights.items()},
        "__author__": "lesa_d2",
        "matching_heuristics": False,
    }
    _write(listing, lambda file: file.write_text(conversion.listing(), encoding="utf-8"))
    _write(target, lambda file: torch.save(checkpoint, file))
    return conversion


def read(file: Path, unsafe: bool = False) -> Any:
    """What ``torch.save`` put into ``file``, on the CPU.

    Raises:
        CheckpointError: no such file, damaged, or with pickled objects that only ``unsafe`` would load.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} {'is a folder' if file.is_dir() else 'does not exist'}; give a file")
    try:
        return torch.load(file, map_location="cpu", weights_only=not unsafe)
    except Exception as error:  # what a foreign file raises depends on what it holds
        pickled = [] if unsafe else _pickled_types(file, error)
        if pickled:
            raise CheckpointError(
                f"{file} holds pickled objects ({', '.join(pickled)}) beside tensors. If you trust its "
                "maker, read it with --unsafe: that unpickles them, which can run code from the file"
            ) from error
        raise CheckpointError(
            f"{file} is no checkpoint that torch.load can read, or it is damaged ({type(error).__name__})"
        ) from error


def _pickled_types(file: Path, error: Exception) -> list[str]:
    """The types whose objects made a safe load fail; none when that failed for another reason."""
    names = set(re.findall(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error)))
    with contextlib.suppress(Exception):  # knows the usual format alone
        names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
    return sorted(names)


def _state_dict(loaded: Any, file: Path) -> StateDict:
    """The tensors by name that ``loaded`` is or holds under one of ``WRAPPERS``."""
    while isinstance(loaded, Mapping):
        inner = [loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        loaded = inner[0]
    expected = f"expected tensors by name, bare or under one of the keys {', '.join(WRAPPERS)}"
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{file} holds {_a(loaded)}; {expected}")
    if not loaded:
        raise CheckpointError(f"{file} holds no tensors; {expected}")
    strange = [f"{key!r} is {_a(value)}" for key, value in loaded.items() if not _is_entry(key, value)]
    if strange:
        raise CheckpointError(f"{file} is no state dict: {listed(strange)}; {expected}")
    return dict(loaded)


def _is_entry(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _a(value: Any) -> str:
    return f"an object of type {type(value).__name__}"


def _check_kind(kind: str, state_dict: StateDict, file: Path) -> Callable[[StateDict], Conversion]:
    """The conversion of ``kind``; CheckpointError when the file looks like another."""
    if kind not in CONVERSIONS:
        raise CheckpointError(f"unknown kind {kind!r}; expected one of {', '.join(CONVERSIONS)}")
    convert = SOURCES[kind].convert
    found = recognise(state_dict)
    if convert is not None and found == kind:
        return convert
    names = list(state_dict)
    wanted = f"not like {SOURCES[kind].title}, which --from {kind} takes"
    if not found:
        raise CheckpointError(f"{file} looks like none of the known kinds, {wanted}: it has {listed(names)}")
    advice = f"use --from {found}" if found in CONVERSIONS else "it needs no conversion"
    if kind == "imagenet-to-detector" and found in ("official-imagenet", "torchvision"):
        advice += ", then --from imagenet-to-detector on the result"
    raise CheckpointError(f"{file} looks like {SOURCES[found].title}, {wanted}; {advice}")


def recognise_file(file: Path) -> str:
    """:func:`recognise` for the weights in a file.

    Raises:
        CheckpointError: no such file, or it cannot be read as weights.
    """
    return recognise(_state_dict(read(file), file))


def recognise(state_dict: Mapping[str, Tensor]) -> str:
    """Which of ``SOURCES`` a state dict looks like, by its names; "" for none."""
    names = strip_prefixes(state_dict, PREFIXES[:1])
    if is_classifier(names):
        return "imagenet-to-detector"
    if any(name.startswith(BACKBONE) for name in names):
        return "detector"
    if any(name.startswith(("neck.", "rpn_head.", "roi_head.")) for name in names):
        return "official-detector"
    trunk = strip_prefixes(names)
    found = {match[0] for name in trunk if (match := re.match(r"layer[1-4]\.\d+\.conv3\.", name))}
    if found - {f"layer{stage - 1}.{block}.conv3." for stage in BLOCKS for block in range(BLOCKS[stage])}:
        return ""  # deeper than a ResNet-50
    if not found:  # nothing, or the shallow blocks of a ResNet-18
        return ""
    return "official-imagenet" if any(".qkv_transform." in name for name in trunk) else "torchvision"


def _convert_classifier(state_dict: StateDict) -> Conversion:
    converted = convert_classifier(state_dict)
    check_backbone_shapes(converted)
    rows = _official_rows(state_dict, strip_prefixes(state_dict), CLASSIFIER_NAMES, converted, CLASSIFIER)
    return Conversion({CLASSIFIER + name: value for name, value in converted.items()}, rows)


def _convert_detector(state_dict: StateDict) -> Conversion:
    converted = convert_detector(state_dict)
    trunk = {name: value for name, value in converted.items() if name.startswith(BACKBONE)}
    check_backbone_shapes(strip_prefixes(trunk, (BACKBONE,)))
    is_cascade = any(name.startswith("roi_heads.semantic_head.") for name in converted)
    names = HTC_NAMES if is_cascade else MASK_RCNN_NAMES
    rows = _official_rows(state_dict, strip_prefixes(state_dict, PREFIXES[:1]), names, converted, "")
    return Conversion(converted, rows)


def _convert_to_detector(state_dict: StateDict) -> Conversion:
    state_dict = strip_prefixes(state_dict, PREFIXES[:1])
    start = classifier_to_detector(state_dict)
    prefix = "" if any(name.startswith("stem.") for name in state_dict) else CLASSIFIER
    rows = []
    for name, value in state_dict.items():
        if name in start.dropped:
            rows.append(Row(name, "", tuple(value.shape), "dropped", start.dropped[name]))
            continue
        target = BACKBONE + name.removeprefix(prefix)
        note = start.converted.get(target, "")
        shape = tuple(start.weights[target].shape)
        rows.append(Row(name, target, shape, "converted" if note else "renamed", note))
    return Conversion(start.weights, rows)


def _official_rows(
    original: StateDict, stripped: StateDict, names: Names, converted: StateDict, prefix: str
) -> list[Row]:
    """Rows for the names in the file, ``original``, which without their prefix are those of ``stripped``."""
    rows, written = [], set()
    for source, (key, value) in zip(original, stripped.items(), strict=True):
        target = str(names.ours(key))
        written.add(target)
        if target.endswith(DERIVED):
            rows.append(Row(source, "", tuple(value.shape), "dropped", "follows from the table's size"))
            continue
        shape = tuple(converted[target].shape)
        note = "" if shape == tuple(value.shape) else "1-D projection given its fourth axis"
        rows.append(Row(source, prefix + target, shape, "converted" if note else "renamed", note))
    for name in sorted(converted.keys() - written):
        note = "counter that older files lack: 0"
        rows.append(Row("", prefix + name, tuple(converted[name].shape), "added", note))
    return rows


SOURCES = {
    "official-imagenet": Source("an ImageNet classifier of the authors' release", _convert_classifier),
    "official-detector": Source("a detector of the authors' release", _convert_detector),
    "torchvision": Source("a ResNet-50 or WideResNet-50-2 of torchvision", _convert_classifier),
    "imagenet-to-detector": Source("an ImageNet classifier of lesa_d2", _convert_to_detector),
    "detector": Source("a detector, or a detector's start, of lesa_d2"),
}
CONVERSIONS = [kind for kind, source in SOURCES.items() if source.convert]


def _group(name: str) -> str:
    """The part of a model that a tensor, by any of its names, belongs to."""
    part = re.sub(r"^(module\.|backbone\.|bottom_up\.|roi_heads\.)+", "", name).split(".")[0]
    if part.startswith("layer"):  # dropped ones have only their own name
        return f"res{int(part[5:]) + 1}"
    part = re.sub(r"^fpn_.*", "fpn", part)
    return {"proposal_generator": "rpn", "linear": "classifier"}.get(part, part.replace("_", " "))


def _summary_line(name: str, rows: list[Row]) -> list[str]:
    written = [row for row in rows if row.target]
    counts = [str(sum(row.action == action for row in rows)) for action in ACTIONS]
    return [name, str(len(written)), f"{sum(row.elements for row in written):,}", *counts]


def _plain(value: Tensor) -> Tensor:
    """A contiguous copy of its own: a slice would be saved with all it was cut from."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _check_target(source: Path, target: Path, listing: Path, force: bool) -> None:
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


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file as a whole or not at all."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, file)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as the latter
        raise CheckpointError(f"{file} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
