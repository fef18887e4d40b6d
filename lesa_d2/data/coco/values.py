"""Read single values of a COCO file: what is certain is brought into one form, all else is a mistake."""

import math
from typing import Any, TypeGuard

LARGEST_ID = 2**53  # pycocotools keeps ids as 64-bit floating-point numbers
LARGEST_SIDE = 10**6  # pixels
_NUMBERS = {int, float}


class MistakeError(Exception):
    """Say what is wrong with a value: the kind of the problem, and what it is exactly."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(kind, what)
        self.kind, self.what = kind, what


def shown(value: Any, most: int = 80) -> str:
    """Return a value as it stands in the file, cut to a length that can be read."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, deep nesting
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}..."


def whole(value: Any) -> Any:
    """Return 3 for 3.0, which JSON does not tell apart, and any other value as it is."""
    return int(value) if type(value) is float and value.is_integer() else value


def is_int(value: Any) -> TypeGuard[int]:
    """Tell whether a value is an integer; True is not one, although it equals 1 as a key."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    """Tell whether a value can be an id: an integer or a text."""
    return is_int(value) or isinstance(value, str)


def is_side(value: Any) -> bool:
    """Tell whether a value can be the width or the height of an image, in pixels."""
    return is_int(value) and 0 < value <= LARGEST_SIDE


def are_numbers(values: Any) -> bool:
    """Tell whether a value is a flat list of finite numbers; True and "1" are none."""
    if not isinstance(values, list) or not _NUMBERS.issuperset(map(type, values)):
        return False
    try:
        return math.isfinite(sum(values)) or all(map(math.isfinite, values))
    except OverflowError:  # an integer beyond the range of floating-point numbers
        return False


def flag(value: Any, name: str) -> int:
    """Return 0 or 1 for what certainly means so: null is 0.

    Raises:
        MistakeError: anything else.
    """
    if value is None:
        return 0
    if type(value) in (int, float, bool) and value in (0, 1):
        return int(value)
    raise MistakeError(f"malformed {name}", f"{name} {shown(value)}, a {type(value).__name__}")
