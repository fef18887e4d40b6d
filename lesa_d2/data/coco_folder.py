"""Any folder in COCO format as a detectron2 data set: what ``train_net.py --dataset DIR`` trains on."""

import hashlib
import json
import logging
import re
import tempfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets import load_coco_json

from ..errors import ConfigError
from .checks import check_coco_json
from .coco_layout import (
    Layout,
    SplitFiles,
    category_names,
    find_layout,
    mask_problems,
    read_coco,
    split_problems,
    summarise,
)
from .entries import is_annotation, is_id, is_image, is_object
from .problems import DatasetProblemsError, Problem
from .registration import register_dataset

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")


def coco_folder_classes(directory: str) -> list[str]:
    """Class names of a COCO-format folder in ascending order of category id.

    Raises:
        DatasetError: see :func:`lesa_d2.data.find_layout`.
        DatasetProblemsError: the categories of training and validation differ, or a name comes twice.
    """
    return list(category_names(find_layout(directory)).values())


def coco_folder_has_masks(directory: str) -> bool:
    """Whether the annotations for training carry segmentations: all do or none, as the check ensures.

    Raises:
        DatasetError: see :func:`lesa_d2.data.find_layout`.
        DatasetProblemsError: the JSON file cannot be read.
    """
    return summarise(find_layout(directory).train.json_file).has_masks


def coco_folder_split(
    directory: str, split: str, seed: int = 0, val_fraction: float = 0.2, drop_invalid: bool = False
) -> str:
    """Register one part of a COCO-format folder, return its name.

    A LazyConfig node: ``names=L(coco_folder_split)(directory=DIR, split="train")``. Nothing is written
    into the folder. The name changes with the folder, its JSON and the other arguments.

    Args:
        directory: a folder in one of the three layouts of :mod:`lesa_d2.data.coco_layout`.
        split: "train" or "val".
        seed, val_fraction: how to split a folder that has one JSON; else unused.
        drop_invalid: leave out images and annotations in which :func:`check_coco_json` finds a problem.

    Raises:
        ConfigError: arguments out of range.
        DatasetError: no such folder, or an unknown layout.
        DatasetProblemsError: the categories cannot be used, or too few images have objects to split
            them. With ``drop_invalid``: only one part has masks; on loading, problems that concern
            the file as a whole, or nothing is left.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {SPLITS}, got {split!r}")
    layout = find_layout(directory)
    files: SplitFiles = getattr(layout, split)
    categories = category_names(layout)
    if drop_invalid:
        _refuse(layout, mask_problems(layout))
    image_ids = _split_ids(layout, split, seed, val_fraction) if layout.needs_split else None
    name = _name(layout, split, seed, val_fraction, drop_invalid)
    metadata: dict[str, Any] = {
        "thing_classes": list(categories.values()),
        "thing_dataset_id_to_contiguous_id": {i: k for k, i in enumerate(categories)},
        "image_root": str(files.image_root),
        "evaluator_type": "coco",
    }
    summary = summarise(files.json_file)
    if image_ids is not None or drop_invalid or summary.has_bom or categories != summary.categories:
        load = partial(_load_selection, files, name, frozenset(categories), image_ids, drop_invalid)
        return register_dataset(name, load, **metadata)
    if summary.evaluable:
        # Without this entry COCOEvaluator derives a JSON of its own from the loaded dicts.
        metadata["json_file"] = str(files.json_file)
    load = partial(load_coco_json, str(files.json_file), str(files.image_root), name)
    return register_dataset(name, load, **metadata)


def _refuse(layout: Layout, problems: list[Problem]) -> None:
    if problems:
        raise DatasetProblemsError(str(layout.directory), problems)


def _split_ids(layout: Layout, split: str, seed: int, val_fraction: float) -> frozenset[int | str]:
    """The image ids of one side of a seeded split; independent of their order in the JSON."""
    if not 0 < val_fraction < 1:
        raise ConfigError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    _refuse(layout, split_problems(layout))
    summary = summarise(layout.train.json_file)
    ids = sorted(set(summary.image_ids), key=str)
    order = np.random.default_rng(seed).permutation(len(ids))
    shuffled = [ids[i] for i in order]
    num_val = min(max(round(val_fraction * len(ids)), 1), len(ids) - 1)
    val, train = shuffled[:num_val], shuffled[num_val:]
    _share_objects(val, train, summary.object_image_ids)
    return frozenset(val if split == "val" else train)


def _share_objects(val: list, train: list, with_objects: frozenset[int | str]) -> None:
    """Where all images with objects fell on one side, swap one for an image of the other, in place."""
    for poor, rich in ((val, train), (train, val)):
        if not with_objects.intersection(poor):
            k = next(k for k, image_id in enumerate(rich) if image_id in with_objects)
            poor[0], rich[k] = rich[k], poor[0]


def _name(layout: Layout, *arguments: Any) -> str:
    # The JSON's content takes part because COCOEvaluator caches what it derives under this name.
    contents = [summarise(part.json_file).digest for part in layout.parts]
    key = repr((str(layout.directory.resolve()), contents, arguments))
    folder = re.sub(r"\W+", "_", layout.directory.resolve().name)
    return f"{folder}_{arguments[0]}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _load_selection(
    files: SplitFiles,
    name: str,
    categories: frozenset[int],
    image_ids: frozenset[int | str] | None,
    drop_invalid: bool,
) -> list[dict]:
    data = read_coco(files.json_file)
    if image_ids is not None:
        # Ids are asked for first because a malformed one need not be hashable.
        data["images"] = [i for i in data["images"] if is_id(i.get("id")) and i["id"] in image_ids]
        data["annotations"] = [
            a for a in data["annotations"] if is_id(a.get("image_id")) and a["image_id"] in image_ids
        ]
    if drop_invalid:
        _leave_out(data, files, _problems(files))
    data["categories"] = [category for category in data["categories"] if category["id"] in categories]
    # load_coco_json reads files only, and the user's folder must stay as it is.
    with tempfile.TemporaryDirectory() as folder:
        selected = Path(folder) / files.json_file.name
        selected.write_text(json.dumps(data))
        return load_coco_json(str(selected), str(files.image_root), name)


def coco_folder_problems(directory: str) -> list[Problem]:
    """What ``drop_invalid`` leaves out of a COCO-format folder; every image is decoded, once in a process.

    Raises:
        DatasetError: see :func:`lesa_d2.data.find_layout`.
    """
    return [problem for files in find_layout(directory).parts for problem in _problems(files)]


@lru_cache(maxsize=4)
def _problems(files: SplitFiles) -> tuple[Problem, ...]:
    return tuple(check_coco_json(files.json_file, files.image_root))  # decodes every image: only once


def _leave_out(data: dict[str, Any], files: SplitFiles, problems: tuple[Problem, ...]) -> None:
    """Remove from ``data`` all images and annotations that are malformed or that ``problems`` name."""
    general = [p for p in problems if not p.is_of_entry]
    if general:
        raise DatasetProblemsError(str(files.json_file), general)
    bad_annotations = {p.annotation_id for p in problems if p.annotation_id is not None}
    bad_images = {p.image_id for p in problems if p.annotation_id is None}
    images = [i for i in data["images"] if is_image(i) and i["id"] not in bad_images]
    kept = {image["id"] for image in images}
    annotations = [
        a
        for a in data["annotations"]
        if is_annotation(a) and a["id"] not in bad_annotations and a["image_id"] in kept
    ]
    logger.warning(
        "%s: left out %d of %d images and %d of %d annotations",
        files.json_file,
        len(data["images"]) - len(images),
        len(data["images"]),
        len(data["annotations"]) - len(annotations),
        len(data["annotations"]),
    )
    if not any(map(is_object, annotations)):
        what = "no object remains once everything listed here is left out"
        nothing = Problem("nothing left", str(files.json_file), what, "Mend some of it.")
        raise DatasetProblemsError(str(files.json_file), [nothing, *problems])
    data.update(images=images, annotations=annotations)
