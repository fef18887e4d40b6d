"""Register the splits of a folder in COCO format with detectron2, and find what is wrong with it."""

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets import load_coco_json

from ...errors import ConfigError
from ..folder import SPLITS, DatasetFolder, register_format
from ..problems import DatasetProblemsError, Problem
from ..registration import register_dataset
from .checks import check_coco_json
from .entries import is_annotation, is_id, is_image, is_object
from .layout import SplitFiles, explain_layout, find_splits
from .summary import Summary, read_coco, summarise

logger = logging.getLogger(__name__)

Ids = frozenset[int | str]


@register_format
@dataclass(frozen=True)
class CocoFolder(DatasetFolder):
    """Represent a folder in one of the layouts of :mod:`lesa_d2.data.coco.layout`; nothing is written into it.

    Attributes:
        directory: the folder.
        train: files for training.
        val: files for validation; those for training where one JSON file is split by a seed.
    """

    directory: Path
    train: SplitFiles
    val: SplitFiles

    @classmethod
    def recognise(cls, root: Path) -> "CocoFolder | None":
        """Return the folder if it has one of the layouts, else None."""
        splits = find_splits(root)
        return cls(root, *splits) if splits else None

    @classmethod
    def explain(cls, root: Path) -> str:
        """Say what is in a folder of another layout, what it lacks, and which layouts are accepted."""
        return explain_layout(root)

    @property
    def needs_split(self) -> bool:
        """Tell whether there is one JSON file, to be split by a seed."""
        return self.train == self.val

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes in ascending order of category id.

        Raises:
            DatasetProblemsError: the categories of training and validation differ, or a name comes twice.
        """
        return list(self.categories().values())

    @property
    def has_masks(self) -> bool:
        """Tell whether the annotations for training have masks; all have or none, as the check ensures.

        Raises:
            DatasetProblemsError: the JSON file cannot be read.
        """
        return summarise(self.train.json_file).has_masks

    def categories(self) -> dict[int, str]:
        """Return names by ascending category id, the same for training and validation.

        A root category (id 0, no annotation, supercategory of others), which Roboflow adds, is left out.

        Raises:
            DatasetProblemsError: an unreadable JSON file, categories that differ, a name that comes twice.
        """
        self._refuse(self._category_problems())
        train, val = self._summaries()
        used = train.used_categories | val.used_categories
        is_root = 0 not in used and train.categories.get(0) in train.supercategories
        return {i: name for i, name in train.categories.items() if not (i == 0 and is_root)}

    # ------------------------------------------------------------------------------------------- problems

    def problems(self) -> list[Problem]:
        """Return the problems of all files and images; an image is decoded once in a process."""
        problems = [problem for files in self._files() for problem in _problems_of_file(files)]
        return problems + self._across_splits(bool(problems))

    def check(self) -> None:
        """Check the JSON files and every image as they are now.

        Raises:
            DatasetProblemsError: lists all problems at once.
        """
        _problems_of_file.cache_clear()
        self._refuse(self.problems())

    def _refuse(self, problems: Iterable[Problem]) -> None:
        if found := list(problems):
            raise DatasetProblemsError(str(self.directory), found)

    def _files(self) -> list[SplitFiles]:
        return list(dict.fromkeys((self.train, self.val)))

    def _summaries(self) -> tuple[Summary, Summary]:
        return summarise(self.train.json_file), summarise(self.val.json_file)

    def _across_splits(self, others: bool) -> list[Problem]:
        """Return problems of the folder as a whole; ``others`` tells whether its files have problems."""
        try:
            summary = summarise(self.train.json_file)
            problems = [*self._category_problems(), *self._mask_problems()]
        except DatasetProblemsError:
            return []  # an unreadable file, which is listed already
        # Why a file has no usable object at all is listed already, too.
        if summary.object_image_ids or not others:
            problems += self._split_problems()
        return problems

    def _category_problems(self) -> Iterator[Problem]:
        train, val = self._summaries()
        if train.categories != val.categories:
            what = f"training has {train.categories}, validation has {val.categories}"
            fix = "Give both files the same category ids and names."
            yield Problem("categories differ", str(self.val.json_file), what, fix)
        ids: dict[str, list[int]] = {}
        for category_id, name in train.categories.items():
            ids.setdefault(name, []).append(category_id)
        for name, same in ids.items():
            if len(same) > 1:
                what, fix = f"{name!r} is category {same}", "Merge these categories or rename one of them."
                yield Problem("duplicate class name", str(self.train.json_file), what, fix)

    def _mask_problems(self) -> list[Problem]:
        train, val = self._summaries()
        if train.has_masks == val.has_masks or not (train.object_image_ids and val.object_image_ids):
            return []  # a split without objects is another problem, found in its file
        with_masks, without = (self.train, self.val) if train.has_masks else (self.val, self.train)
        what = f"no annotation has a 'segmentation', but {with_masks.json_file} has them"
        fix = "Give both files segmentations, or remove them from both to train boxes alone."
        return [Problem("masks in one split only", str(without.json_file), what, fix)]

    def _split_problems(self) -> list[Problem]:
        count = len(summarise(self.train.json_file).object_image_ids)
        if not self.needs_split or count >= 2:
            return []
        what = f"{count} image{'' if count == 1 else 's'} with an object that is not a crowd"
        fix = "A split needs at least two such images, one for training and one for validation; label more."
        return [Problem("too few images to split", str(self.train.json_file), what, fix)]

    # --------------------------------------------------------------------------------------- registration

    def register(
        self, split: str, *, seed: int = 0, val_fraction: float = 0.2, drop_invalid: bool = False
    ) -> str:
        """Register a split and return its name, which changes with the folder, its JSON and the arguments.

        Args:
            split: "train" or "val".
            seed: of the split of a folder that has one JSON file; else unused.
            val_fraction: share of the images for validation in such a folder; else unused.
            drop_invalid: leave out images and annotations in which :func:`check_coco_json` finds a problem.

        Raises:
            ConfigError: arguments out of range.
            DatasetProblemsError: the categories cannot be used, or too few images have objects to split them.
                With ``drop_invalid``: only one split has masks; on loading, problems that concern the file as a
                whole, or nothing is left.
        """
        if split not in SPLITS:
            raise ConfigError(f"split must be one of {SPLITS}, got {split!r}")
        files: SplitFiles = getattr(self, split)
        categories = self.categories()
        if drop_invalid:
            self._refuse(self._mask_problems())
        image_ids = self._split_ids(split, seed, val_fraction) if self.needs_split else None
        name = self._name(split, seed, val_fraction, drop_invalid)
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

    def _split_ids(self, split: str, seed: int, val_fraction: float) -> Ids:
        """Return the image ids of one side of a seeded split, which their order in the JSON does not change."""
        if not 0 < val_fraction < 1:
            raise ConfigError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        self._refuse(self._split_problems())
        summary = summarise(self.train.json_file)
        ids = sorted(set(summary.image_ids), key=str)
        shuffled = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
        num_val = min(max(round(val_fraction * len(ids)), 1), len(ids) - 1)
        val, train = shuffled[:num_val], shuffled[num_val:]
        _share_objects(val, train, summary.object_image_ids)
        return frozenset(val if split == "val" else train)

    def _name(self, *arguments: Any) -> str:
        # The JSON's content takes part because COCOEvaluator caches what it derives under this name.
        contents = [summarise(files.json_file).digest for files in self._files()]
        key = repr((str(self.directory.resolve()), contents, arguments))
        folder = re.sub(r"\W+", "_", self.directory.resolve().name)
        return f"{folder}_{arguments[0]}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"


@lru_cache(maxsize=4)
def _problems_of_file(files: SplitFiles) -> tuple[Problem, ...]:
    return tuple(check_coco_json(files.json_file, files.image_root))  # decodes every image: only once


def _share_objects(val: list, train: list, with_objects: Ids) -> None:
    """Swap two images, in place, where all images with objects are on one side of a split."""
    for poor, rich in ((val, train), (train, val)):
        if not with_objects.intersection(poor):
            k = next(k for k, image_id in enumerate(rich) if image_id in with_objects)
            poor[0], rich[k] = rich[k], poor[0]


def _load_selection(
    files: SplitFiles, name: str, categories: frozenset[int], image_ids: Ids | None, drop_invalid: bool
) -> list[dict]:
    data = read_coco(files.json_file)
    if image_ids is not None:
        for key, id_key in (("images", "id"), ("annotations", "image_id")):
            # Ids are asked for first because a malformed one need not be hashable.
            data[key] = [e for e in data[key] if is_id(e.get(id_key)) and e[id_key] in image_ids]
    if drop_invalid:
        _leave_out(data, files, _problems_of_file(files))
    data["categories"] = [category for category in data["categories"] if category["id"] in categories]
    # load_coco_json reads files only, and the user's folder must stay as it is.
    with tempfile.TemporaryDirectory() as folder:
        selected = Path(folder) / files.json_file.name
        selected.write_text(json.dumps(data))
        return load_coco_json(str(selected), str(files.image_root), name)


def _leave_out(data: dict[str, Any], files: SplitFiles, problems: tuple[Problem, ...]) -> None:
    """Remove from ``data`` all images and annotations that are malformed or that ``problems`` name."""
    if general := [p for p in problems if not p.is_of_entry]:
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
    selected = {"images": images, "annotations": annotations}
    counts = [f"{len(data[key]) - len(rest)} of {len(data[key])} {key}" for key, rest in selected.items()]
    logger.warning("%s: left out %s", files.json_file, " and ".join(counts))
    if not any(map(is_object, annotations)):
        what = "no object remains once everything listed here is left out"
        nothing = Problem("nothing left", str(files.json_file), what, "Fix some of it.")
        raise DatasetProblemsError(str(files.json_file), [nothing, *problems])
    data.update(selected)
