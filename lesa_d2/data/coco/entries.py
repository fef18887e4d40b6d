"""Read the entries of a COCO file, each into the one form that every reader uses."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .masks import Bounds, Mask, read_mask
from .values import LARGEST_ID, MistakeError, are_numbers, flag, is_id, is_int, is_side, shown, whole

_TOLERANCE = 1.0  # pixels; annotation tools round boxes
_APART = 0.1  # share of the smaller of a box and the box around its mask that they have in common
_THIN = 2.0  # pixels; the box around so thin a mask says little
_IDS = ("id", "image_id", "category_id")


def read_image(raw: dict) -> dict:
    """Return an image with an id, a file name, and its size in whole pixels.

    Raises:
        MistakeError: one of them is missing or of another kind.
    """
    image = {**raw, **{key: whole(raw.get(key)) for key in ("id", "width", "height")}}
    if "file_name" not in raw and isinstance(address := raw.get("coco_url"), str):  # LVIS
        image["file_name"] = "/".join(address.split("/")[-2:])
    good = is_id(image["id"]) and isinstance(name := image.get("file_name"), str) and name.strip()
    if not good or not (is_side(image["width"]) and is_side(image["height"])):
        raise MistakeError("malformed image", f"got {shown(raw, 200)}")
    return image


def read_annotation(
    raw: dict,
    images: Mapping[Any, dict],
    categories: Mapping[int, str],
    mistakes: list[MistakeError],
    merged: Mapping[Any, Any],
) -> dict | None:
    """Return an annotation with the ids, the box, the mask, ``iscrowd`` and ``area`` that every reader uses.

    Args:
        raw: as it stands in the file.
        images: read images by id.
        categories: names by id.
        mistakes: every mistake is appended to it.
        merged: ids of images that another one stands for, with the other's id.

    Returns:
        The annotation, whose values with a mistake are as they stand; None where an id or the box is missing.
    """
    annotation = raw.copy()
    if not _read_ids(annotation) or "bbox" not in raw:
        without = {key: value for key, value in raw.items() if key != "segmentation"}
        mistakes.append(MistakeError("malformed annotation", f"got {shown(without, 200)}"))
        return None
    annotation["image_id"] = merged.get(annotation["image_id"], annotation["image_id"])
    image = images.get(annotation["image_id"])
    if image is None or annotation["category_id"] not in categories:
        mistakes += _unknown(annotation, image, images, categories)
    _read_flags(annotation, mistakes)
    kind = _box_mistake(raw["bbox"], image)
    if kind:
        size = f" in {image['width']}x{image['height']} px" if image else ""
        mistakes.append(MistakeError(kind, f"bbox {shown(raw['bbox'])}{size}"))
    _read_geometry(annotation, image, not kind, mistakes)
    return annotation


def _read_ids(annotation: dict) -> bool:
    """Read the ids in place, and tell whether all can be ids."""
    for key in _IDS:
        if type(annotation.get(key)) is not int:
            annotation[key] = whole(annotation.get(key))
            if not is_id(annotation[key]):
                return False
    return True


def _read_flags(annotation: dict, mistakes: list[MistakeError]) -> None:
    for name in ("iscrowd", "ignore"):
        if type(annotation.get(name)) is not int or annotation[name] not in (0, 1):
            try:
                annotation[name] = flag(annotation.get(name), name)
            except MistakeError as mistake:
                mistakes.append(mistake)
    if annotation.pop("ignore") == 1:
        mistakes.append(MistakeError("ignored annotation", "has 'ignore' set"))


def _unknown(
    annotation: dict, image: dict | None, images: Mapping, categories: Mapping
) -> Iterator[MistakeError]:
    if image is None:
        same = _of_other_type(annotation["image_id"], images)
        yield MistakeError("unknown image", same or "no image has this id")
    if (category := annotation["category_id"]) not in categories:
        same = _of_other_type(category, categories)
        known = f"known are {shown(sorted(categories))}"
        yield MistakeError("unknown category", f"category_id {category!r}, {same or known}")


def _of_other_type(value: Any, known: Mapping) -> str:
    """Say that an id is known as a number and given as a text, or the other way round."""
    other: Any = str(value)
    if isinstance(value, str):
        try:
            other = int(value)
        except ValueError:
            return ""
    kinds = ("a text", "a number") if isinstance(value, str) else ("a number", "a text")
    return f"which is {kinds[0]}: {other!r}, {kinds[1]}, is known" if other in known else ""


def _box_mistake(box: Any, image: dict | None) -> str | None:
    if not are_numbers(box) or len(box) != 4:
        return "malformed box"
    x, y, width, height = box
    if min(width, height) < 0:
        return "reversed box"
    if min(width, height) == 0:
        return "zero-area box"
    if image is None:
        return None
    over = max(-x, -y, x + width - image["width"], y + height - image["height"])
    return "box outside the image" if over > _TOLERANCE else None


def _read_geometry(annotation: dict, image: dict | None, has_box: bool, mistakes: list[MistakeError]) -> None:
    """Read the mask, compare it with the box, and set the area."""
    mask, box = None, annotation["bbox"]
    if annotation.get("segmentation") and image is not None:
        try:
            mask = read_mask(annotation["segmentation"], image["width"], image["height"])
        except MistakeError as mistake:
            mistakes.append(mistake)
            return
        annotation["segmentation"] = mask.segmentation
        if has_box and are_apart(box, mask.bounds):
            x0, y0, x1, y1 = mask.bounds
            around = f"the box around the mask is [{x0:g}, {y0:g}, {x1 - x0:g}, {y1 - y0:g}]"
            mistakes.append(MistakeError("box apart from its mask", f"bbox {shown(box)}, {around}"))
    keypoints = annotation.get("keypoints")
    if keypoints and not (are_numbers(keypoints) and len(keypoints) % 3 == 0):
        mistakes.append(MistakeError("malformed keypoints", f"got {shown(keypoints)}"))
    if has_box and not _is_area(annotation.get("area"), image):
        annotation["area"] = _area(mask, box)


def _area(mask: Mask | None, box: list[float]) -> float:
    return mask.area if mask and mask.area else math.prod(box[2:])


def _is_area(value: Any, image: dict | None) -> bool:
    """Tell whether an area can be one: positive, and not larger than the image."""
    if type(value) not in (int, float) or not 0 < value < math.inf:
        return False
    return image is None or value <= 1.1 * image["width"] * image["height"]


def are_apart(box: list[float], bounds: Bounds) -> bool:
    """Tell whether a box (x, y, width, height) has nothing to do with the bounds of its mask."""
    x0, y0, x1, y1 = bounds
    if min(x1 - x0, y1 - y0) < _THIN:
        x0, y0, x1, y1 = x0 - _THIN, y0 - _THIN, x1 + _THIN, y1 + _THIN
        return box[0] > x1 or box[1] > y1 or box[0] + box[2] < x0 or box[1] + box[3] < y0
    across = min(x1, box[0] + box[2]) - max(x0, box[0])
    down = min(y1, box[1] + box[3]) - max(y0, box[1])
    common = max(across, 0) * max(down, 0)
    return common < _APART * min(box[2] * box[3], (x1 - x0) * (y1 - y0))


def is_object(annotation: dict) -> bool:
    """Tell whether a model learns from a read annotation and is scored on it; crowds are used for neither."""
    return not annotation.get("iscrowd")


def is_plain_id(value: Any) -> bool:
    """Tell whether pycocotools can use an id as it is."""
    return is_int(value) and 0 <= value <= LARGEST_ID
