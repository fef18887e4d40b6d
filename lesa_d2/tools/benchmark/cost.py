"""Parameters and FLOPs of a model, section by section.

A multiplication and an addition count as two FLOPs; norms, activations and other element-wise work count nothing.
Attention counts as its plain formula: the backends do the same multiplications, some of them again in the
backward pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tabulate import tabulate
from torch import nn

from .memory import Setting


@dataclass(frozen=True)
class SectionCost:
    """Hold the parameters of a section of a model, and the ``flops`` of one forward pass of all images."""

    name: str
    parameters: int
    flops: int


def section_costs(setting: Setting) -> list[SectionCost]:
    """Return the cost of each section: the model's children, the backbone split into bottom-up network and rest.

    Raises:
        ConfigError: see :meth:`.memory.Setting.flops`.
    """
    model = setting.measured.model
    flops = setting.flops()
    costs = []
    for name, module, inner in _sections(model):
        parameters, count = _parameters(module), flops.get(name, 0)
        if inner:
            whole = f"{name}.{inner}"
            found = SectionCost(whole, _parameters(module.get_submodule(inner)), flops.get(whole, 0))
            costs.append(found)
            name, parameters, count = f"rest of {name}", parameters - found.parameters, count - found.flops
        costs.append(SectionCost(name, parameters, count))
    return [cost for cost in costs if cost.parameters or cost.flops]


def _sections(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield the name and the module of every child, and the name of the bottom-up network inside it, if any."""
    for name, module in model.named_children():
        inner = [child for child, _ in module.named_children() if child in ("bottom_up", "net")]
        yield name, module, inner[0] if name == "backbone" and inner else ""


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def cost_table(costs: Sequence[SectionCost]) -> str:
    """Return a Markdown table with the sum."""
    total = SectionCost("**all**", sum(c.parameters for c in costs), sum(c.flops for c in costs))
    rows = [[c.name, f"{c.parameters:,}", f"{c.flops / 1e9:,.1f}"] for c in (*costs, total)]
    headers = ["section", "parameters", "GFLOP, forward"]
    align = ("left", "right", "right")
    return tabulate(rows, headers, "github", colalign=align, disable_numparse=True)
