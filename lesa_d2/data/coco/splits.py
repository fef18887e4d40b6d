"""Split the images of one file by a seed: copies stay together, and every class is on both sides if it can be."""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_ROBOFLOW_COPY = re.compile(r"^(.+?)[._](?:jpe?g|png|bmp|webp|tiff?)\.rf\.[^./]+(?:\.\w+)?$", re.IGNORECASE)

NO_OBJECT = -(2**60)  # no category has this id


@dataclass(frozen=True)
class Group:
    """Hold the ids of images that must stay together, and the classes of all their objects."""

    ids: tuple[int | str, ...]
    classes: frozenset[int]


def original_of(name: str) -> str:
    """Return the name of the picture that ``x_jpg.rf.<hash>.jpg``, an augmented copy by Roboflow, was made from."""
    folder, _, file = name.replace("\\", "/").rpartition("/")
    match = _ROBOFLOW_COPY.match(file)
    if not match:
        return name
    return f"{folder}/{match[1]}" if folder else match[1]


def grouped(
    images: Sequence[tuple[int | str, frozenset[int], str]], same: Mapping[str, Hashable]
) -> list[Group]:
    """Group images that are copies of one picture.

    Args:
        images: id, classes and file name of each.
        same: file name -> a key that files of the same content share; may lack those without an equal.
    """
    root: dict[Hashable, Hashable] = {}

    def find(key: Hashable) -> Hashable:
        while root.setdefault(key, key) != key:
            key = root[key]
        return key

    ordered = sorted(images, key=lambda image: (str(image[0]), image[2]))
    for _, _, name in ordered:
        root[find(("content", same.get(name, name)))] = find(("original", original_of(name)))
    members: dict[Hashable, list[tuple[int | str, frozenset[int]]]] = defaultdict(list)
    for image_id, classes, name in ordered:
        members[find(("original", original_of(name)))].append((image_id, classes))
    return [
        Group(tuple(i for i, _ in group), frozenset().union(*(classes for _, classes in group)))
        for group in members.values()
    ]


def validation_ids(groups: Sequence[Group], fraction: float, seed: int) -> frozenset[int | str]:
    """Choose the images for validation: a fraction of all, and of those of every class as far as possible.

    Where the groups are single images, their number is that fraction rounded, at least one and not all.  Every class
    with two groups or more stays on both sides where that number allows it; an object is always on both sides.

    Args:
        groups: at least two, of which two have objects.
        fraction: share of the images, between 0 and 1.
        seed: of the choice.
    """
    order = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    total = sum(len(group.ids) for group in order)
    choice = _Choice(order, min(max(round(fraction * total), 1), total - 1), fraction)
    for wanted in sorted(choice.count, key=lambda k: (choice.count[k], k)):
        for group in choice.with_class[wanted]:
            if choice.chosen_count[wanted] >= choice.targets[wanted]:
                break
            if choice.keeps_classes(group):
                choice.add(group)
    for accepts in (choice.is_wanted, choice.keeps_classes, choice.keeps_an_object):
        for group in order:
            if accepts(group):
                choice.add(group)
    if not choice.has_object:  # every group with one is larger than the fraction
        choice.add(min((g for g in order if g.classes), key=lambda group: len(group.ids)))
    return frozenset(image_id for group in choice.chosen for image_id in group.ids)


class _Choice:
    """Hold the groups chosen for validation so far, which have at most ``size`` images."""

    def __init__(self, groups: Sequence[Group], size: int, fraction: float) -> None:
        self.size, self.taken = size, 0
        self.chosen: dict[Group, None] = {}
        self.with_class: dict[int, list[Group]] = defaultdict(list)
        for group in groups:
            for k in _labels(group):
                self.with_class[k].append(group)
        self.count = {k: len(of_class) for k, of_class in self.with_class.items()}
        self.targets = {k: min(max(round(fraction * n), 1), n - 1) for k, n in self.count.items()}
        self.chosen_count: Counter[int] = Counter()
        self.objects_left = sum(bool(group.classes) for group in groups)
        self.has_object = False

    def is_wanted(self, group: Group) -> bool:
        """Tell whether no class would get more than its share."""
        within = all(self.chosen_count[k] < self.targets[k] for k in _labels(group))
        return within and self.keeps_classes(group)

    def keeps_classes(self, group: Group) -> bool:
        """Tell whether training keeps every class."""
        return self.keeps_an_object(group) and all(
            self.chosen_count[k] + 1 < self.count[k] for k in _labels(group)
        )

    def keeps_an_object(self, group: Group) -> bool:
        """Tell whether there is a place for the group, and training keeps an object at all."""
        if group in self.chosen or (group.classes and self.objects_left == 1):
            return False
        places = self.size - self.taken - len(group.ids)
        return places > 0 or (places == 0 and (bool(group.classes) or self.has_object))

    def add(self, group: Group) -> None:
        """Choose a group."""
        self.chosen[group] = None
        self.taken += len(group.ids)
        self.chosen_count.update(_labels(group))
        self.objects_left -= bool(group.classes)
        self.has_object |= bool(group.classes)


def _labels(group: Group) -> frozenset[int]:
    """Return the classes of a group; images without an object are shared out as if they were a class."""
    return group.classes or frozenset({NO_OBJECT})
