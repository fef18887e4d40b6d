"""Read pickles of numpy arrays, such as detectron2's and Detectron's .pkl files, without running anything.

A pickle is a program.  This reader knows the instructions that arrays, dicts, lists, tuples, strings and numbers
need.  The names in the file are compared with a short list and never imported, the only objects are arrays and
their types, and an array is made from the bytes that are there: the sizes that a file states allocate nothing.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

STATED = {  # instructions that state a value
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
FRESH: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NO_EFFECT = {"PROTO", "FRAME"}
NUMBERS = "biuf"
"""The kinds of numpy's types that may be in a file: truth values, integers and floating-point numbers."""
MOST_AXES = 32
MARK = object()


class RefusedError(Exception):
    """Report a pickle that holds more than arrays, or is damaged."""


@dataclass(frozen=True)
class Known:
    """Stand for a name in the file; REDUCE then calls ``make``, which is ours."""

    make: Callable[..., Any]


class Type:
    """Stand for a numpy type until its state, the order of its bytes, has been read."""

    def __init__(self, code: Any, *_: Any) -> None:
        try:
            self.type = np.dtype(_text(code))
        except (TypeError, ValueError, SyntaxError) as error:  # of numpy, whose types are a small language
            raise RefusedError(f"the type {code!r} of an array") from error
        if self.type.kind not in NUMBERS or self.type.shape:
            raise RefusedError(f"an array of the type {self.type}, which does not hold numbers")

    def set_state(self, state: Any) -> None:
        """Take the order of bytes from the state that numpy writes."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "=", "|"):
            raise RefusedError("a numpy type of an unknown form")
        self.type = self.type.newbyteorder(order)


class Array:
    """Stand for an array until its state, which holds the numbers, has been read."""

    value: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """Take shape, type and numbers from the state (version, shape, type, is_fortran, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("an array of an unknown form")
        _, shape, kind, is_fortran, content = state
        self.value = _array(content, kind, shape, "F" if is_fortran else "C")

    def tensor(self) -> Tensor:
        """Return the numbers as a tensor."""
        if self.value is None:
            raise RefusedError("an array without numbers")
        return torch.from_numpy(self.value.astype(self.value.dtype.newbyteorder("="), copy=True, order="C"))


def _array(content: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """Return the array of a content, which must have as many bytes as type and shape state."""
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(kind, Type) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise RefusedError("an array of an unknown form")
    if len(shape) > MOST_AXES or not all(type(side) is int and side >= 0 for side in shape):
        raise RefusedError("an array whose shape is no tuple of sizes")
    raw = content.encode("latin1") if isinstance(content, str) else content  # Python 2 has no bytes
    if not isinstance(raw, bytes | bytearray):
        raise RefusedError("an array whose numbers are no bytes")
    expected = math.prod(shape) * kind.type.itemsize
    if len(raw) != expected:
        raise RefusedError(f"an array of the shape {shape!r} with {len(raw)} bytes, expected {expected}")
    return np.ndarray(shape, kind.type, raw, order=order)


def _reconstruct(kind: Any, *_: Any) -> Array:
    if kind is not NDARRAY:
        raise RefusedError("an array of another class than numpy's")
    return Array()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.value = _array(content, kind, shape, order)
    return array


def _scalar(kind: Any, content: Any) -> Any:
    return _array(content, kind, ()).item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError("bytes in another encoding than latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _ordered(items: Any = ()) -> dict:
    made: dict = {}
    for item in items if isinstance(items, list | tuple) else [items]:
        if not isinstance(item, list | tuple) or len(item) != 2 or not isinstance(item[0], str):
            raise RefusedError("an OrderedDict of an unknown form")
        made[item[0]] = item[1]
    return made


def _never(*_: Any) -> Any:
    raise RefusedError("a call of a class")


NDARRAY = Known(_never)
KNOWN = {
    "numpy ndarray": NDARRAY,
    "numpy dtype": Known(Type),
    "collections OrderedDict": Known(_ordered),
    "_codecs encode": Known(_encode),
    "__builtin__ bytes": Known(_no_bytes),
    **{
        f"numpy.{core}.{module} {name}": Known(make)
        for core in ("core", "_core")
        for module, name, make in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class Reader:
    """Run the instructions of a pickle that arrays, containers, strings and numbers need."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        """Return what the pickle holds; arrays in it are :class:`Array`.

        Raises:
            RefusedError: it has any other instruction or name, or it is damaged.
        """
        try:
            for instruction, value, _ in pickletools.genops(content):
                if instruction.name == "STOP":
                    return self.stack.pop()
                self._run(instruction.name, value)
        except RefusedError:
            raise
        except Exception as error:  # of a damaged file: a truncated value, an empty stack, an unknown memo
            raise RefusedError(f"a damaged pickle ({type(error).__name__}: {error})") from error
        raise RefusedError("a pickle without an end")

    def _run(self, name: str, value: Any) -> None:
        if name in STATED:
            self.stack.append(value)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in FRESH:
            self.stack.append(FRESH[name]())
        elif name in TUPLES:
            self.stack[-TUPLES[name] :] = [tuple(self.stack[-TUPLES[name] :])]
        elif name not in NO_EFFECT:
            run = getattr(self, f"_run_{name.lower()}", None)
            if run is None:
                raise RefusedError(f"the instruction {name}")
            run(value)

    def _run_mark(self, _: None) -> None:
        self.stack.append(MARK)

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1 - self.stack[::-1].index(MARK)
        items, self.stack[start:] = self.stack[start + 1 :], []
        return items

    def _run_tuple(self, _: None) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _run_list(self, _: None) -> None:
        self.stack.append(self._since_mark())

    def _run_dict(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._set(items)

    def _run_append(self, _: None) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _run_appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise RefusedError("elements of something else than a list")
        self.stack[-1].extend(items)

    def _run_setitem(self, _: None) -> None:
        items, self.stack[-2:] = self.stack[-2:], []
        self._set(items)

    def _run_setitems(self, _: None) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise RefusedError("entries of something else than a dict")
        keys = items[::2]
        if not all(isinstance(key, str | bytes | int) for key in keys):
            raise RefusedError("keys that are no strings or integers")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def _run_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _run_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _run_binput = _run_long_binput = _run_put

    def _run_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _run_binget = _run_long_binget = _run_get

    def _run_pop(self, _: None) -> None:
        self.stack.pop()

    def _run_global(self, name: str) -> None:
        if name not in KNOWN:
            raise RefusedError(f"the name {name.replace(' ', '.')}")
        self.stack.append(KNOWN[name])

    def _run_stack_global(self, _: None) -> None:
        module, name = self.stack[-2:]
        del self.stack[-2:]
        self._run_global(f"{module} {name}")

    def _run_reduce(self, _: None) -> None:
        function, arguments = self.stack[-2:]
        if type(function) is not Known or type(arguments) is not tuple:
            raise RefusedError("a call of something that is not known")
        self.stack[-2:] = [function.make(*arguments)]

    def _run_build(self, _: None) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) is dict:  # attributes of an OrderedDict, such as torch gives to state dicts
            return
        if not isinstance(self.stack[-1], Type | Array):
            raise RefusedError("a state of something else than an array")
        self.stack[-1].set_state(state)


def _text(value: Any) -> str:
    text = value.decode("latin1") if isinstance(value, bytes) else value
    if not isinstance(text, str) or len(text) > 4 or "," in text:
        raise RefusedError("a numpy type of an unknown form")
    return text


def read_numpy_pickle(content: bytes) -> Any:
    """Return what a pickle of arrays holds; arrays in dicts, at most four deep, are tensors.

    Raises:
        RefusedError: the pickle holds anything else than arrays of numbers, dicts, lists, tuples, strings and
            numbers, or is damaged.  Nothing of it has run.
    """
    return _tensors(Reader().read(content), 4, {})


def _tensors(value: Any, depth: int, done: dict[tuple[int, int], Any]) -> Any:
    """Convert arrays; what a pickle refers to several times is converted once, as small files may refer very often."""
    key = (id(value), depth)
    if key not in done:
        done[key] = _converted(value, depth, done)
    return done[key]


def _converted(value: Any, depth: int, done: dict[tuple[int, int], Any]) -> Any:
    if isinstance(value, Array):
        if (id(value), 0) not in done:
            try:
                done[id(value), 0] = value.tensor()
            except TypeError as error:  # torch lacks some of numpy's types
                raise RefusedError(f"an array that torch cannot hold: {error}") from error
        return done[id(value), 0]
    if type(value) is dict and depth:
        return {key: _tensors(item, depth - 1, done) for key, item in value.items()}
    return value
