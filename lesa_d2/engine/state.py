"""Checks of the state of a run that a checkpoint holds, before any of it is used.

PyTorch takes over whatever has the right names: a tensor of another shape or a text ends the process later, without a
message of its own.
"""

import copy
import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import listed

logger = logging.getLogger("lesa_d2")

MOST_STEPS = 10**9


def check_step(step: Any) -> None:
    """Check the number of the last step.

    Raises:
        ValueError: it is none.
    """
    if type(step) is not int or not 0 <= step < MOST_STEPS:
        raise ValueError(f"expected a whole number from 0 to below {MOST_STEPS:,} as iteration, got {step!r}")


def check_scaler(state: Mapping[str, Any], scaler: torch.amp.GradScaler) -> None:
    """Check the state of a loss scaling that is in use.

    Raises:
        KeyError, ValueError: a value is missing, or is no number that it can have.
    """
    for name, ours in scaler.state_dict().items():
        value = state[name]
        kinds = (int,) if type(ours) is int else (int, float)
        if type(value) not in kinds or not math.isfinite(value) or value < 0 or (value == 0 and ours):
            raise ValueError(f"{name} of the loss scaling is {value!r}")


def check_numbers(numbers: Mapping[str, Any], model: nn.Module) -> None:
    """Check the numbers that modules keep as plain attributes; some make theirs in the first step only.

    Raises:
        ValueError: there is no such module, the attribute is something else, or the value is no finite number.
    """
    modules = dict(model.named_modules())
    for key, value in numbers.items():
        name, _, attribute = key.rpartition(".")
        module = modules.get(name)
        if module is None or type(getattr(module, attribute, 0)) not in (int, float):
            raise ValueError(f"the model keeps no number {key!r}")
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{key} must be a finite number, got {value!r}")


def check_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer, may_be_empty: bool) -> None:
    """Check the state of an optimizer: its settings, and of each parameter what the optimizer keeps.

    A parameter that never got a gradient has no state, which is said.

    Args:
        state: of ``optimizer.state_dict()``.
        optimizer: that is to take it.
        may_be_empty: all steps so far may have been left out.

    Raises:
        KeyError, ValueError: something is missing, or of another kind or shape.
    """
    groups = state["param_groups"]
    check_groups(groups, optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if [key for group in groups for key in group["params"]] != list(range(len(parameters))):
        raise ValueError("its parameters are not those of the model")
    kept = state["state"]
    if unknown := kept.keys() - range(len(parameters)):
        raise ValueError(f"it has a state of parameters that there are not: {listed([*map(str, unknown)])}")
    expected = after_one_step(optimizer)
    for key, values in kept.items():
        _check_values(values, expected[key], parameters[key], f"parameter {key}")
    without = [key for key, values in enumerate(expected) if values and not kept.get(key)]
    if without and len(without) == sum(map(bool, expected)) and not may_be_empty:
        raise ValueError("the optimizer's state of all parameters is missing")
    if without:
        logger.warning(
            "The checkpoint has no state of the optimizer for %d of %d parameters, as for such that never got a "
            "gradient: %s",
            len(without),
            len(parameters),
            listed([f"{key} of shape {tuple(parameters[key].shape)}" for key in without]),
        )


def check_groups(groups: Any, optimizer: torch.optim.Optimizer) -> None:
    """Check the settings of an optimizer's groups against those of the config.

    Raises:
        ValueError: there are other groups, or a setting is missing or of another kind.
    """
    if not isinstance(groups, list) or len(groups) != len(optimizer.param_groups):
        raise ValueError("the optimizer has other groups of parameters")
    for group, ours in zip(groups, optimizer.param_groups, strict=True):
        if missing := sorted(optimizer.defaults.keys() - group.keys()):
            raise ValueError(
                f"the state is of another optimizer than {type(optimizer).__name__}: no {listed(missing)}"
            )
        examples = {"initial_lr": ours["lr"], **ours}
        for name in group.keys() & examples.keys() - {"params"}:
            if not _is_like(group[name], examples[name]):
                raise ValueError(
                    f"the optimizer's {name} must be of the kind of {examples[name]!r}, got {group[name]!r}"
                )


def _is_like(value: Any, example: Any) -> bool:
    """Tell whether a setting can stand in the place of another one."""
    if isinstance(example, bool) or example is None:
        return value is None or type(value) in (bool, int, float)
    if isinstance(example, Tensor):
        return isinstance(value, Tensor) and value.shape == example.shape
    if isinstance(example, (int, float)):
        return type(value) in (int, float) and math.isfinite(value)
    if isinstance(example, (list, tuple)):
        is_list = isinstance(value, (list, tuple)) and len(value) == len(example)
        return is_list and all(map(_is_like, value, example))
    return isinstance(value, type(example))


def after_one_step(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return what an optimizer keeps of each parameter after a step; empty dicts where that cannot be told.

    The step is made on tensors without values.
    """
    probe = copy.copy(optimizer)
    groups = [
        {**group, "params": [_without_values(p) for p in group["params"]]} for group in probe.param_groups
    ]
    probe.param_groups, probe.state = groups, defaultdict(dict)
    parameters = [p for group in groups for p in group["params"]]
    try:
        probe.step()
    except Exception:  # of an optimizer that needs values, or is called in its own way
        return [{} for _ in parameters]
    return [dict(probe.state[p]) for p in parameters]


def _without_values(parameter: Tensor) -> nn.Parameter:
    made = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    made.grad = torch.empty_like(made) if parameter.requires_grad else None
    return made


def _check_values(values: Any, expected: Mapping[str, Any], parameter: Tensor, what: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"the optimizer's state of {what} is {str(values)[:80]}")
    if missing := sorted(expected.keys() - values.keys()):
        raise ValueError(f"the optimizer's state of {what} lacks {listed(missing)}")
    for name, value in values.items():
        example = expected.get(name, value)
        shape = tuple(example.shape) if isinstance(example, Tensor) else None
        given = tuple(value.shape) if isinstance(value, Tensor) else None
        if given != shape or (shape is None and not _is_like(value, example)):
            described = f"of shape {given}" if given is not None else f"{value!r}"[:80]
            raise ValueError(
                f"the optimizer's {name} of {what}, of shape {tuple(parameter.shape)}, is {described}"
            )
