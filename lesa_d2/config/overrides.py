"""Values of ``key=value`` on the command line, the same for LazyConfig and yacs.

Numbers, booleans, null and ``${key}`` are those of hydra's grammar, which detectron2 uses.  Lists are ``[a, b]``,
mappings ``{a: 1}``.  Everything else is text and taken as it is, with spaces, accents, parentheses, ``=`` and
backslashes.  A text in quotes may also hold what would mean something else.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ..errors import ConfigError

CLOSING = {"[": "]", "{": "}", "(": ")"}
QUOTED = re.compile(r"""(["'])(?:\\.|(?!\1|\\).)*\1""", re.DOTALL)
BEFORE_QUOTED = ("", *CLOSING, ",", ":")  # a quote after anything else, as in "it's", is a plain character

Fits = Callable[[Any], bool]


class _UnreadableError(ValueError):
    """Report a text that is neither a value nor plain."""


def split_override(override: str) -> tuple[str, str]:
    """Return the key, which may begin with ``+``, and the text after the first ``=``.

    Raises:
        ConfigError: it is not of the form key=value.
    """
    key, separator, text = override.partition("=")
    if key.startswith("-"):
        raise ConfigError(f"option {key} stands among the overrides; options go before key=value")
    if not separator:
        raise ConfigError(f"override {override!r} is not of the form key=value")
    return key, text


def read_value(key: str, text: str, fits: Fits | None = None) -> Any:
    """Return the value that ``text`` stands for.

    Args:
        key: for messages.
        text: what stands after ``key=``.
        fits: tells whether the key takes a value: a key for texts then takes ``2024`` and ``[a] b`` as texts, and one
            for a list of names takes ``[1, 2]`` as names.  None where nothing is known about the key.

    Raises:
        ConfigError: the text begins like a list, a mapping or a quoted text and is none; or it is several values
            without brackets.  The message says how to write it.
    """
    try:
        value = _parse(text)
    except _UnreadableError as error:
        if fits and text.strip()[:1] not in ("'", '"') and fits(text):
            return text
        raise ConfigError(_advice(key, text, str(error))) from None
    if fits is None:
        if value == text and "," in text:
            raise ConfigError(_advice(key, text, "several values stand in brackets"))
        return value
    if value is None or fits(value):
        return value
    return next((other for other in (_parse(text, texts=True), text) if fits(other)), value)


def quoted(text: str) -> str:
    """Return a text in double quotes, which :func:`read_value` turns into the same text."""
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + (m[2] and '\\"'), text) + '"'


def _advice(key: str, text: str, reason: str) -> str:
    forms = [("text", quoted(text))]
    if "," in text:
        inside = text.strip().strip("[](){}")
        items = [_in_list(item.strip().strip("'\"")) for item in inside.split(",") if item.strip()]
        forms.append(("list", f"[{', '.join(items)}]"))
    examples = " or, as a ".join(f"{kind}, {shlex.quote(f'{key}={value}')}" for kind, value in forms)
    override = f"{key}={text}"
    return (
        f"cannot read the value of the override {override!r}: {reason}; put texts into double quotes, and the "
        f"override as a whole into single ones for the shell: as a {examples}"
    )


def _in_list(item: str) -> str:
    return quoted(item) if isinstance(_scalar(item), str) else item


def _parse(text: str, texts: bool = False) -> Any:
    """Return the value of a text; with ``texts``, numbers and the like stay texts."""
    shown = text.strip()
    if shown[:1] in ("'", '"'):
        if not QUOTED.fullmatch(shown):
            raise _UnreadableError(f"what begins with {shown[0]} does not end with the same quote")
        return re.sub(rf"\\+(?={shown[0]})|\\+$", _unescaped, shown[1:-1])
    if (inside := _inside(shown)) is not None:
        items = _split(inside, ",")
        if shown[0] == "{":
            return dict(_pair(item, texts) for item in items)
        if shown[0] == "[" or "," in inside or not items:
            return [_parse(item, texts) for item in items]
    return text if texts else _scalar(text)


def _unescaped(backslashes: re.Match) -> str:
    return backslashes[0][: len(backslashes[0]) // 2]


def _scalar(text: str) -> Any:
    """Return a number, a boolean or None, if the text is one; else the text itself."""
    if text.strip() == "None":  # of Python, which yacs takes
        return None
    try:
        value = _parser().parse_override(f"value={text}").value()
    except HydraException:
        return text
    return value if value is None or type(value) in (bool, int, float) else text


@lru_cache(maxsize=1)
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _pair(item: str, texts: bool) -> tuple[Any, Any]:
    parts = _split(item, ":", most=2)
    if len(parts) < 2:
        raise _UnreadableError(f"{item.strip()} in braces is not of the form name: value")
    return _parse(parts[0], texts), _parse(parts[1], texts)


def _inside(text: str) -> str | None:
    """Return what stands in the brackets around a text; None where there are none around all of it."""
    if text[:1] not in CLOSING:
        return None
    try:
        closed = next(position for position, char, depth in _walk(text) if not depth and char in "]})")
    except _UnreadableError:
        if text[0] == "(":  # a list in parentheses is of Python; "(" alone is a plain character
            return None
        raise
    return text[1:-1] if closed == len(text) - 1 else None


def _split(text: str, separator: str, most: int = 0) -> list[str]:
    """Return the stripped parts between separators outside brackets and quotes, at most ``most`` if given.

    Raises:
        _UnreadableError: a part before the last is empty, or a bracket is not closed.
    """
    places = [position for position, char, depth in _walk(text) if char == separator and not depth]
    starts = [0, *(place + 1 for place in places[: most - 1 if most else None])]
    ends = [*(start - 1 for start in starts[1:]), len(text)]
    parts = [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    if not all(parts[:-1]):
        raise _UnreadableError(f"nothing stands before one {separator!r}")
    return parts if parts[-1] or most else parts[:-1]  # Python allows a comma after the last


def _walk(text: str) -> Iterator[tuple[int, str, int]]:
    """Yield position, character and number of open brackets around it, for all that is not in quotes.

    Raises:
        _UnreadableError: at the end, if a bracket is not closed.
    """
    waiting: list[str] = []
    position, before = 0, ""
    while position < len(text):
        in_quotes = QUOTED.match(text, position) if before in BEFORE_QUOTED else None
        if in_quotes:
            position, before = in_quotes.end(), in_quotes[1]
            continue
        char = text[position]
        if waiting and char == waiting[-1]:
            waiting.pop()
        yield position, char, len(waiting)
        if char in CLOSING:
            waiting.append(CLOSING[char])
        before = before if char.isspace() else char
        position += 1
    if waiting:
        raise _UnreadableError(f"a bracket is not closed: {waiting[-1]!r} is missing")
