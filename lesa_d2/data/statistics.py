"""What a detection data set holds: counts, sizes, and what in it deserves a look before training."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from pycocotools import mask as mask_util

SMALL, MEDIUM = 32**2, 96**2  # square pixels; COCO's limits of small and medium objects
RARE = 20  # objects of a class, below which it can hardly be learnt, and its AP means little
TINY = 12  # pixels that the network sees of an object's side


@dataclass(frozen=True)
class PartStatistics:
    """Of the training or the validation part.

    Attributes:
        images: all of them.
        empty_images: those without an object; crowds are no objects.
        crowds: annotations that stand for many objects.
        objects, class_images: per class, how many objects, and images with one.
        sizes: small, medium and large objects, by COCO's areas.
        widths, heights: least, median and greatest, in pixels.
        seen_side: median side (√area) of an object as the network sees it, in pixels; None if unknown.
    """

    images: int
    empty_images: int
    crowds: int
    objects: tuple[int, ...]
    class_images: tuple[int, ...]
    sizes: tuple[int, int, int]
    widths: tuple[float, float, float]
    heights: tuple[float, float, float]
    seen_side: float | None = None


def part_statistics(
    records: Sequence[dict], num_classes: int, seen: tuple[int, int] | None = None
) -> PartStatistics:
    """Statistics of detectron2's dataset dicts.

    Args:
        records: at least one, with ``height``, ``width`` and, where there are objects, ``annotations``.
        num_classes: ids are 0 … num_classes-1.
        seen: (height, width) in pixels that every image is resized to, if it is one size.
    """
    objects, class_images = np.zeros(num_classes, int), np.zeros(num_classes, int)
    areas, sides, empty, crowds = [], [], 0, 0
    for record in records:
        found = [a for a in record.get("annotations", []) if not a.get("iscrowd")]
        crowds += len(record.get("annotations", [])) - len(found)
        empty += not found
        classes = [a["category_id"] for a in found]
        np.add.at(objects, classes, 1)
        class_images[sorted(set(classes))] += 1
        areas += (here := [object_area(a) for a in found])
        if seen:
            scale = seen[0] * seen[1] / (record["height"] * record["width"])
            sides += [float(np.sqrt(area * scale)) for area in here]
    small, medium = (sum(area < limit for area in areas) for limit in (SMALL, MEDIUM))
    return PartStatistics(
        images=len(records),
        empty_images=empty,
        crowds=crowds,
        objects=tuple(objects.tolist()),
        class_images=tuple(class_images.tolist()),
        sizes=(small, medium - small, len(areas) - medium),
        widths=_spread([record["width"] for record in records]),
        heights=_spread([record["height"] for record in records]),
        seen_side=median(sides) if sides else None,
    )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


def object_area(annotation: dict) -> float:
    """Square pixels of an annotation's mask, or of its box (XYWH) where it has none."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        is_plain = isinstance(segmentation["counts"], list)
        rle = mask_util.frPyObjects(segmentation, *segmentation["size"]) if is_plain else segmentation
        return float(mask_util.area(rle))
    if segmentation:
        return sum(map(_polygon_area, segmentation))
    return float(annotation["bbox"][2] * annotation["bbox"][3])


def _polygon_area(polygon: Sequence[float]) -> float:
    x, y = np.reshape(polygon, (-1, 2)).astype(float).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def data_remarks(train: PartStatistics, val: PartStatistics, classes: Sequence[str]) -> list[str]:
    """What deserves a look, one sentence each: classes in one part only, rare ones, tiny objects."""
    pairs = list(zip(classes, train.objects, val.objects, strict=True))
    found = [
        ("Without any object", [name for name, t, v in pairs if not t and not v]),
        ("In validation only, so never learnt", [name for name, t, v in pairs if v and not t]),
        ("In training only, so not evaluated", [name for name, t, v in pairs if t and not v]),
        (f"Rare in training (fewer than {RARE} objects)", [name for name, t, _ in pairs if 0 < t < RARE]),
    ]
    remarks = [f"{what}: {', '.join(names)}." for what, names in found if names]
    if train.seen_side is not None and train.seen_side < TINY:
        remarks.append(
            f"Half of the objects are smaller than {train.seen_side:.0f} pixels as the network sees them; "
            "larger pictures would help (docs/own_data.md)."
        )
    return remarks


def choose_samples(records: Sequence[dict], number: int) -> list[dict]:
    """Up to ``number`` records: every class comes up if it can, the rarest first; then spread evenly."""
    places: dict[int, list[int]] = {}
    for place, record in enumerate(records):
        for class_id in {a["category_id"] for a in record.get("annotations", [])}:
            places.setdefault(class_id, []).append(place)
    chosen: list[int] = []
    for with_class in sorted(places.values(), key=len):
        if len(chosen) < number and not set(chosen) & set(with_class):
            chosen.append(with_class[0])
    others = [place for place in range(len(records)) if place not in chosen]
    missing = min(number - len(chosen), len(others))
    chosen += [others[k * len(others) // missing] for k in range(missing)]
    return [records[place] for place in sorted(chosen)]
