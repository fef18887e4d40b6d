"""Register the parts of a folder of annotated images with detectron2, and find what is wrong with it."""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from detectron2.data.datasets import load_coco_json

from ...errors import ConfigError, DatasetError, listed
from ..folder import PARTS, DatasetFolder, register_format
from ..problems import DatasetProblemsError, Problem
from ..registration import register_dataset
from .checks import paths, picture_problems, pictures_state, valid_summary
from .copies import equal_files
from .fixes import FIXES
from .layout import explain_layout, find_layout
from .part import Part, Summary
from .splits import Group, grouped, original_of, validation_ids

logger = logging.getLogger(__name__)

Ids = frozenset[int | str]


@dataclass(frozen=True)
class AnnotatedFolder(DatasetFolder):
    """Represent a folder whose parts can be read as COCO documents; nothing is written into it.

    Attributes:
        directory: the folder.
        parts: by "train", "val" and "test"; "train" alone where its images are split by a seed.
        assumed: sentences about what was assumed of the layout.
    """

    directory: Path
    parts: Mapping[str, Part]
    assumed: tuple[str, ...] = ()
    format_name = "COCO"

    @property
    def train(self) -> Part:
        """Return the part for training."""
        return self.parts["train"]

    @property
    def val(self) -> Part:
        """Return the part for validation, which is that for training where a seed splits it."""
        return self.parts.get("val", self.train)

    @property
    def needs_split(self) -> bool:
        """Tell whether there is one part, to be split by a seed."""
        return "val" not in self.parts

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
            DatasetProblemsError: the file cannot be read.
        """
        return self.train.summary().has_masks

    def categories(self) -> dict[int, str]:
        """Return names by ascending category id, the same for training and validation.

        A root category, which Roboflow adds, is left out: id 0, no annotation in any part, and the supercategory
        "none" or that of others by its name.

        Raises:
            DatasetProblemsError: an unreadable file, categories that differ, a name that comes twice.
        """
        self._refuse(self._category_problems(self.train, self.val))
        return self._categories(self.train)

    def _categories(self, part: Part) -> dict[int, str]:
        names = {i: name for i, name, _ in part.summary().categories}
        return {i: name for i, name in names.items() if not (i == 0 and self._has_root(part))}

    def _has_root(self, part: Part) -> bool:
        summaries = [other.summary() for other in dict.fromkeys(self.parts.values())]
        if any(s.objects.get(0) or s.crowds.get(0) for s in summaries):
            return False
        categories = part.summary().categories
        name, over = next(((name, over) for i, name, over in categories if i == 0), ("", ""))
        return over.strip().casefold() == "none" or name in {
            over for i, _, over in categories if i != 0 and over
        }

    # ------------------------------------------------------------------------------------------- problems

    def problems(self) -> list[Problem]:
        """Return the problems of all files and images; an image is decoded again only when it has changed."""
        problems: list[Problem] = []
        for part in self._used():
            try:
                problems += [*part.summary().problems, *picture_problems(part)]
            except DatasetProblemsError as error:
                problems += error.problems
        return problems + self._across_parts(bool(problems))

    def check(self) -> None:
        """Check the files and every image as they are now.

        Raises:
            DatasetProblemsError: lists all problems at once.
        """
        self._refuse(self.problems())

    def _refuse(self, problems: Iterable[Problem]) -> None:
        if found := list(problems):
            raise DatasetProblemsError(str(self.directory), found)

    def _used(self) -> list[Part]:
        """Return the parts that training reads."""
        return list(dict.fromkeys((self.train, self.val)))

    def _across_parts(self, others: bool) -> list[Problem]:
        """Return problems of the folder as a whole; ``others`` tells whether its files have problems."""
        try:
            train = self.train.summary()
            problems = [*self._category_problems(self.train, self.val), *self._mask_problems()]
            problems += self._crowd_problems()
        except DatasetProblemsError:
            return []  # an unreadable file, which is listed already
        # Why a file has no usable object at all is listed already, too.
        if self.needs_split and (train.object_images or not others):
            problems += self._split_problems(train, drop_invalid=False)
        return problems

    def _category_problems(self, one: Part, other: Part) -> Iterator[Problem]:
        names, others = self._categories(one), self._categories(other)
        if names != others:
            what = f"training has {names}, {other.name or 'validation'} has {others}"
            yield Problem("categories differ", str(other.file), what, FIXES["categories differ"])
        ids: dict[str, list[int]] = {}
        for category_id, name in names.items():
            ids.setdefault(name, []).append(category_id)
        for name, same in ids.items():
            if len(same) > 1:
                what, fix = f"{name!r} is category {same}", FIXES["duplicate class name"]
                yield Problem("duplicate class name", str(one.file), what, fix)

    def _mask_problems(self) -> list[Problem]:
        train, val = self.train.summary(), self.val.summary()
        if train.has_masks == val.has_masks or not (train.object_images and val.object_images):
            return []  # a part without objects is another problem, found in its file
        with_masks, without = (self.train, self.val) if train.has_masks else (self.val, self.train)
        what = f"no annotation has a 'segmentation', but {with_masks.file} has them"
        kind = "masks in one split only"
        return [Problem(kind, str(without.file), what, FIXES[kind])]

    def _crowd_problems(self) -> Iterator[Problem]:
        objects, crowds = Counter[int](), Counter[int]()
        for part in self._used():
            objects.update(part.summary().objects)
            crowds.update(part.summary().crowds)
        if not any(objects.values()):
            return  # said of the file
        for category_id, name in self._categories(self.train).items():
            if crowds[category_id] > 1 and not objects[category_id]:
                what = f"all {crowds[category_id]} annotations of {name!r} have iscrowd 1: nothing is learnt from them"
                kind = "class of crowds only"
                yield Problem(kind, str(self.train.file), what, FIXES[kind])

    def _split_problems(self, train: Summary, drop_invalid: bool) -> list[Problem]:
        if _can_be_split(self._groups(drop_invalid)):
            return []
        count = train.object_images
        what = f"{count} image{'' if count == 1 else 's'} with an object that is not a crowd"
        kind = "too few images to split"
        return [Problem(kind, str(self.train.file), what, FIXES[kind])]

    # ---------------------------------------------------------------------------------------- description

    def description(self) -> list[str]:
        """Return a line for each part: its file, its numbers of images and annotations, and where the pictures are."""
        lines = []
        for name, part in self.parts.items():
            role = (
                "training and validation, split by a seed"
                if self.needs_split and name == "train"
                else PARTS[name]
            )
            summary = part.summary()
            images, annotations = summary.totals
            folders = {os.path.dirname(path) for path in paths(summary)} or {str(summary.image_root)}
            where = os.path.relpath(os.path.commonpath(folders), self.directory)
            file = os.path.relpath(part.file, self.directory)
            found = sum(map(os.path.isfile, paths(summary)))
            lines.append(
                f"{role}: {self.format_name} in {file}, {images} images and {annotations} annotations; "
                f"{found} pictures in {'the folder itself' if where == '.' else f'{where}/'}"
            )
        return lines

    def remarks(self) -> list[str]:
        """Return sentences about what makes results less honest than they look, and about what was assumed."""
        said = list(self.assumed)
        for part in self._used():
            said += [f"{part.file.name}: {remark}" for remark in part.summary().remarks]
        return said + (self._remarks_on_groups() if self.needs_split else self._remarks_on_copies())

    def _remarks_on_groups(self) -> list[str]:
        train = self.train.summary()
        groups = self._groups(drop_invalid=False)
        copies = len(train.images) - len(groups)
        if copies:
            return [
                f"{copies} of {len(train.images)} pictures are copies of others: the split keeps copies together."
            ]
        same = _equal_pictures((self.train,), (pictures_state(train),))
        if same:
            return [
                f"{len(same)} of {len(train.images)} pictures are copies of one another: validation has some, too."
            ]
        return []

    def _remarks_on_copies(self) -> list[str]:
        train, val = self.train.summary(), self.val.summary()
        same = _equal_pictures((self.train, self.val), (pictures_state(train), pictures_state(val)))
        learnt, seen = set(map(same.get, paths(train))) - {None}, set(paths(train))
        equal = [p for p in paths(val) if p in seen or same.get(p) in learnt]
        names = {os.path.basename(path) for path in paths(train)}
        originals = set(map(original_of, names)) - names
        others = set(paths(val)) - set(equal)
        copies = [path for path in paths(val) if path in others and _original(path) in originals]
        said = []
        of = f"of {len(val.images)} pictures for validation"
        if equal:
            shown = listed([os.path.basename(path) for path in equal], 3)
            said.append(
                f"{len(equal)} {of} are for training as well ({shown}): AP says how well they are remembered."
            )
        if copies:
            shown = listed([os.path.basename(path) for path in copies], 3)
            said.append(
                f"{len(copies)} {of} are augmented copies of pictures for training ({shown}): AP is too high."
            )
        return said

    # --------------------------------------------------------------------------------------- registration

    def register(
        self, split: str, *, seed: int = 0, val_fraction: float = 0.2, drop_invalid: bool = False
    ) -> str:
        """Register a part with detectron2 and return its name, which differs for other content or arguments.

        Args:
            split: "train", "val", or "test" where the folder has such a part.
            seed: of the random split of a folder with one part.
            val_fraction: share of the images for validation in such a folder.
            drop_invalid: leave out the images and annotations that have problems.

        Raises:
            DatasetProblemsError: a problem of the whole folder, or any at all without ``drop_invalid``.
            DatasetError: the folder has no part for test.
            ConfigError: another split, or a fraction that is none.
        """
        if split not in PARTS:
            raise ConfigError(f"split must be one of {', '.join(PARTS)}, got {split!r}")
        part = self._part(split)
        categories = self.categories()
        if drop_invalid:
            self._refuse(self._mask_problems())
        contents = valid_summary(part) if drop_invalid else part.summary()
        self._refuse(() if drop_invalid else contents.problems)
        ids: Ids | None = None
        if self.needs_split and split != "test":
            ids = self._split_ids(contents, split, seed, val_fraction, drop_invalid)
        elif drop_invalid:
            ids = frozenset(image.id for image in contents.images)
        name = self._name(split, contents, ids, (split, seed, val_fraction, drop_invalid))
        metadata: dict[str, Any] = {
            "thing_classes": list(categories.values()),
            "thing_dataset_id_to_contiguous_id": {i: k for k, i in enumerate(categories)},
            "image_root": str(contents.image_root),
            "evaluator_type": "coco",
            "remarks": self.remarks(),
        }
        if ids is None and contents.is_plain and len(categories) == len(contents.categories):
            # Without this entry COCOEvaluator derives a JSON of its own from the loaded dicts.
            metadata["json_file"] = str(part.file)
            load = partial(load_coco_json, str(part.file), str(contents.image_root), name)
        else:
            load = partial(_load_selection, part, name, frozenset(categories), ids, drop_invalid)
        return register_dataset(name, load, **metadata)

    def _part(self, split: str) -> Part:
        if split != "test":
            return self.train if split == "train" else self.val
        if split not in self.parts:
            raise DatasetError(f"{self.directory} has no part for test, only {listed(list(self.parts))}")
        self._refuse(self._category_problems(self.train, self.parts[split]))
        return self.parts[split]

    def _split_ids(
        self, contents: Summary, split: str, seed: int, val_fraction: float, drop_invalid: bool
    ) -> Ids:
        """Return the image ids of one side of a seeded split, which their order in the file does not change."""
        if not 0 < val_fraction < 1:
            raise ConfigError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        self._refuse(self._split_problems(contents, drop_invalid))
        val = validation_ids(self._groups(drop_invalid), val_fraction, seed)
        return val if split == "val" else frozenset(image.id for image in contents.images) - val

    def _groups(self, drop_invalid: bool) -> list[Group]:
        """Return the images that a seed splits, copies of one picture together."""
        train = self.train
        return _groups_of(train, drop_invalid, train.state(), pictures_state(train.summary()))

    def _name(self, split: str, contents: Summary, ids: Ids | None, arguments: tuple) -> str:
        # The content takes part because COCOEvaluator caches what it derives under this name.
        digests = [part.summary().digest for part in self._used()] + [contents.digest]
        chosen = None if ids is None else sorted(map(repr, ids))
        key = repr((str(self.directory.resolve()), str(contents.image_root), digests, chosen, arguments))
        folder = re.sub(r"\W+", "_", self.directory.resolve().name)
        return f"{folder}_{split}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"


@register_format
class CocoFolder(AnnotatedFolder):
    """Represent a folder with JSON files in COCO's format, in any layout of ``lesa_d2.data.coco.layout``."""

    @classmethod
    def recognise(cls, root: Path) -> "CocoFolder | None":
        """Return the folder if it has a file for training, else None."""
        layout = find_layout(root)
        return None if layout.what_is_wrong else cls(root, layout.parts, layout.remarks)

    @classmethod
    def explain(cls, root: Path) -> str:
        """Say what is in a folder of another layout, what is wrong with it, and what is accepted."""
        return explain_layout(root)


@lru_cache(maxsize=4)
def _groups_of(part: Part, drop_invalid: bool, state: tuple, pictures: str) -> list[Group]:
    contents = valid_summary(part) if drop_invalid else part.summary()
    same = _equal_pictures((part,), (pictures,))
    images = [(image.id, image.categories, image.file_name) for image in contents.images]
    keys = {
        image.file_name: same.get(path) for image, path in zip(contents.images, paths(contents), strict=True)
    }
    groups = grouped(images, {name: key for name, key in keys.items() if key})
    return (
        groups if _can_be_split(groups) else [Group((image_id,), classes) for image_id, classes, _ in images]
    )


def _original(path: str) -> str:
    return original_of(os.path.basename(path))


def _can_be_split(groups: Sequence[Group]) -> bool:
    return sum(bool(group.classes) for group in groups) >= 2


@lru_cache(maxsize=4)
def _equal_pictures(parts: tuple[Part, ...], pictures: tuple[str, ...]) -> dict[str, str]:
    return equal_files(path for part in parts for path in paths(part.summary()))


def _load_selection(
    part: Part, name: str, categories: frozenset[int], ids: Ids | None, drop_invalid: bool
) -> list[dict]:
    document = part.read()
    if drop_invalid:
        left = document.without_invalid(picture_problems(part))
        kept = {"images": left.images, "annotations": left.annotations}
        counts = [f"{n - len(kept[key])} of {n} {key}" for key, n in zip(kept, document.totals, strict=True)]
        logger.warning("%s: left out %s", part.file, " and ".join(counts))
        document = left
    if ids is not None:
        document = replace(
            document,
            images=[image for image in document.images if image["id"] in ids],
            annotations=[a for a in document.annotations if a["image_id"] in ids],
        )
    document = document.numbered()
    data = {
        "info": {},
        "images": document.images,
        "annotations": document.annotations,
        "categories": [category for category in document.categories if category["id"] in categories],
    }
    # load_coco_json reads files only, and the user's folder must stay as it is.
    with tempfile.TemporaryDirectory() as folder:
        selected = Path(folder) / "selected.json"
        selected.write_text(json.dumps(data))
        return load_coco_json(str(selected), str(document.image_root), name)
