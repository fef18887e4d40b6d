"""Tell which entries of a COCO file have all keys that other code reads."""

from typing import Any, TypeGuard


def is_int(value: Any) -> TypeGuard[int]:
    """Tell whether a value is an integer; True is not one, although it equals 1 as a key."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    """Tell whether a value can be an id: an integer or a text."""
    return is_int(value) or isinstance(value, str)


def is_image(image: dict) -> bool:
    """Tell whether an image has an id, a file name, and its size in whole pixels."""
    sides = (image.get("width"), image.get("height"))
    return (
        is_id(image.get("id"))
        and isinstance(image.get("file_name"), str)
        and all(is_int(side) and side > 0 for side in sides)
    )


def is_annotation(annotation: dict) -> bool:
    """Tell whether an annotation has all its ids and a box."""
    ids = (annotation.get("id"), annotation.get("image_id"), annotation.get("category_id"))
    return all(map(is_id, ids)) and "bbox" in annotation


def is_object(annotation: dict) -> bool:
    """Tell whether a model learns from an annotation and is scored on it; crowds are used for neither."""
    return is_annotation(annotation) and not annotation.get("iscrowd")
