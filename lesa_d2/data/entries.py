"""What one entry of a COCO file needs, so that the rest of the code can read it without asking."""

from typing import Any, TypeGuard


def is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)  # true and 1 would be the same key


def is_id(value: Any) -> bool:
    return is_int(value) or isinstance(value, str)


def is_image(image: dict) -> bool:
    sides = (image.get("width"), image.get("height"))
    return (
        is_id(image.get("id"))
        and isinstance(image.get("file_name"), str)
        and all(is_int(side) and side > 0 for side in sides)
    )


def is_annotation(annotation: dict) -> bool:
    ids = (annotation.get("id"), annotation.get("image_id"), annotation.get("category_id"))
    return all(map(is_id, ids)) and "bbox" in annotation


def is_object(annotation: dict) -> bool:
    """An annotation that a model learns from and is scored on; crowds are neither."""
    return is_annotation(annotation) and not annotation.get("iscrowd")
