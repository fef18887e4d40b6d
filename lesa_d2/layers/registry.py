"""The operators of the slot by name, open to operators from outside the package."""

import sys
from collections.abc import Callable
from typing import TypeVar

from ..trust import imported
from .slot import SlotOperator

Operator = TypeVar("Operator", bound=type[SlotOperator])

OPERATORS: dict[str, type[SlotOperator]] = {}
"""Operators by the name that configs give them."""

CONVOLUTION = "conv"
"""Name of what the operators replace: the ordinary 3×3 convolution."""


def register_operator(name: str) -> Callable[[Operator], Operator]:
    """Make an operator known by ``name``: ``@register_operator("mine")`` above a subclass of SlotOperator.

    Registering another class under a name that is taken replaces the first, as when a notebook's cell runs again.

    Raises:
        ValueError: the name is that of the convolution or of an operator of this package, or looks like an
            import path.
        TypeError: the class is no operator of the slot.
    """
    if name == CONVOLUTION or "." in name:
        raise ValueError(f"an operator's name must not be {CONVOLUTION!r} or hold a dot, got {name!r}")

    def register(operator: Operator) -> Operator:
        package = __name__.partition(".")[0]
        taken = getattr(OPERATORS.get(name), "__module__", "")
        if taken != operator.__module__ and taken.partition(".")[0] == package:
            raise ValueError(f"{name!r} is an operator of {package}: register yours under another name")
        OPERATORS[name] = check_operator_class(operator)
        return operator

    return register


def operator_names() -> list[str]:
    """Return the names that a config may give as operator, the convolution first."""
    return [CONVOLUTION, *OPERATORS]


def find_operator(operator: str | type[SlotOperator]) -> type[SlotOperator]:
    """Return the class of an operator: a class itself, a registered name, or an import path ``module.Class``.

    Raises:
        ValueError: no operator is known by this name; or the module of the path is not imported yet, and
            ``lesa_d2.trust.imported`` refuses to.
        TypeError: what it leads to is no operator of the slot.
    """
    if isinstance(operator, type):
        return check_operator_class(operator)
    if isinstance(operator, str) and operator in OPERATORS:
        return OPERATORS[operator]
    if not isinstance(operator, str) or "." not in operator:
        raise ValueError(
            f"operator must be one of {operator_names()}, a subclass of SlotOperator, or its import path "
            f"'module.Class', got {operator!r}; a name that is registered elsewhere is known once that module is "
            "imported"
        )
    module, _, name = operator.rpartition(".")
    loaded = getattr(sys.modules.get(module), name, None)  # by a program, which may import anything
    return check_operator_class(imported(operator) if loaded is None else loaded)


def check_operator_class(operator: object) -> type[SlotOperator]:
    """Return ``operator`` itself.

    Raises:
        TypeError: it is no subclass of SlotOperator.
    """
    if isinstance(operator, type) and issubclass(operator, SlotOperator):
        return operator
    raise TypeError(f"expected a subclass of lesa_d2.layers.SlotOperator as operator, got {operator!r}")
