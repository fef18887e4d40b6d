"""Count what a detection data set holds, and name what deserves attention before training."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from pycocotools import mask as mask_util

from .coco.masks import polygon_area

SMALL, MEDIUM = 32**2, 96**2  # square pixels; COCO's limits of small and medium objects
RARE = 20  # with fewer objects a class can hardly be learnt, and its AP means little
FEW = 50  # with fewer images AP means little
COUNTED = 100  # detections of an image that COCO's AP counts, and that detectors keep
TINY = 12  # pixels of an object's side, as the network sees it


@dataclass(frozen=True)
class PartStatistics:
    """Hold the statistics of the split for training or validation.

    Attributes:
        images: number of all images.
        empty_images: number of images without an object; crowds are not objects.
        crowds: number of annotations that stand for many objects.
        objects: number of objects for each class.
        class_images: number of images with an object, for each class.
        sizes: numbers of small, medium and large objects, by COCO's areas.
        widths: least, median and greatest width of an image, in pixels.
        heights: the same of the height.
        seen_side: median side (√area) of an object as the network sees it, in pixels; None if unknown.
        image_objects: number of objects of every image.
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
    image_objects: tuple[int, ...] = ()


def part_statistics(
    records: Sequence[dict], num_classes: int, seen: tuple[int, int] | None = None
) -> PartStatistics:
    """Return the statistics of detectron2's dataset dicts.

    Args:
        records: at least one, with ``height``, ``width`` and, where there are objects, ``annotations``.
        num_classes: the ids are 0 … num_classes-1.
        seen: (height, width) in pixels that every image is resized to, if it is one size.
    """
    counts, class_images = np.zeros(num_classes, int), np.zeros(num_classes, int)
    areas, sides, image_objects, crowds = [], [], [], 0
    for record in records:
        objects_here = [a for a in record.get("annotations", []) if not a.get("iscrowd")]
        crowds += len(record.get("annotations", [])) - len(objects_here)
        image_objects.append(len(objects_here))
        classes = [a["category_id"] for a in objects_here]
        np.add.at(counts, classes, 1)
        class_images[sorted(set(classes))] += 1
        areas += (areas_here := [object_area(a) for a in objects_here])
        if seen:
            scale = seen[0] * seen[1] / (record["height"] * record["width"])
            sides += [float(np.sqrt(area * scale)) for area in areas_here]
    small, medium = (sum(area < limit for area in areas) for limit in (SMALL, MEDIUM))
    return PartStatistics(
        images=len(records),
        empty_images=image_objects.count(0),
        crowds=crowds,
        objects=tuple(counts.tolist()),
        class_images=tuple(class_images.tolist()),
        sizes=(small, medium - small, len(areas) - medium),
        widths=_spread([record["width"] for record in records]),
        heights=_spread([record["height"] for record in records]),
        seen_side=median(sides) if sides else None,
        image_objects=tuple(image_objects),
    )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


def object_area(annotation: dict) -> float:
    """Return the square pixels of an annotation's mask, or of its box (XYWH) where it has none."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        is_plain = isinstance(segmentation["counts"], list)
        rle = mask_util.frPyObjects(segmentation, *segmentation["size"]) if is_plain else segmentation
        return float(mask_util.area(rle))
    if segmentation:
        return sum(polygon_area(polygon[::2], polygon[1::2]) for polygon in segmentation)
    return float(annotation["bbox"][2] * annotation["bbox"][3])


def data_remarks(train: PartStatistics, val: PartStatistics, classes: Sequence[str]) -> list[str]:
    """Return a text for each thing to look at: classes in one split only or rare, tiny objects, limits of AP."""
    pairs = list(zip(classes, train.objects, val.objects, strict=True))
    named = [
        ("Without any object", [name for name, t, v in pairs if not t and not v]),
        ("In validation only, so never learnt", [name for name, t, v in pairs if v and not t]),
        ("In training only, so not evaluated", [name for name, t, v in pairs if t and not v]),
        (f"Rare in training (fewer than {RARE} objects)", [name for name, t, _ in pairs if 0 < t < RARE]),
    ]
    remarks = [f"{what}: {', '.join(names)}." for what, names in named if names]
    if train.seen_side is not None and train.seen_side < TINY:
        remarks.append(
            f"Half of the objects are smaller than {train.seen_side:.0f} pixels as the network sees them; "
            "larger images would help (docs/own_data.md)."
        )
    return [*remarks, *limits_of_ap(val.images, val.image_objects)]


def limits_of_ap(images: int, image_objects: Sequence[int], counted: int = COUNTED) -> list[str]:
    """Return a text for each thing that makes AP mean less than it seems to: few images, very many objects in one.

    Args:
        images: number of evaluated images.
        image_objects: number of objects of each of them; images without objects may be left out.
        counted: detections of an image that count.
    """
    remarks = []
    if images < FEW:
        named = f"{images} picture{'s' * (images != 1)}"
        remarks.append(
            f"AP on {named} means little: a few objects found or missed change it by several points. Take at "
            f"least {FEW} pictures for validation before you compare models by it."
        )
    if full := [number for number in image_objects if number > counted]:
        hold = "picture holds" if len(full) == 1 else "pictures hold"
        remarks.append(
            f"{len(full)} {hold} more than {counted} objects, up to {max(full)}, in validation: AP counts the "
            f"{counted} most confident detections of a class in a picture, and detectors keep {COUNTED} of a "
            "picture unless told otherwise, so that all beyond is missed. Raise both limits: "
            "dataloader.evaluator.max_dets_per_image, and the model's own (test_topk_per_image of its box "
            "predictor, max_detections_per_image of a one-stage detector)."
        )
    return remarks


def choose_samples(records: Sequence[dict], number: int) -> list[dict]:
    """Return up to ``number`` records with as many classes as possible, the rarest first; the rest is spread evenly."""
    indices: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        for class_id in {a["category_id"] for a in record.get("annotations", [])}:
            indices.setdefault(class_id, []).append(index)
    chosen: list[int] = []
    for with_class in sorted(indices.values(), key=len):
        if len(chosen) < number and not set(chosen) & set(with_class):
            chosen.append(with_class[0])
    others = [index for index in range(len(records)) if index not in chosen]
    missing = min(number - len(chosen), len(others))
    chosen += [others[k * len(others) // missing] for k in range(missing)]
    return [records[index] for index in sorted(chosen)]
