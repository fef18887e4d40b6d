"""Tables of what a model costs: parameters and FLOPs section by section, and memory.

A multiplication and an addition count as two FLOPs; norms, activations and other element-wise work count
nothing.  Attention counts as its plain formula: the backends do the same multiplications, some of them again in
the backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence

from tabulate import tabulate
from torch import nn

from .memory import Setting

Section = tuple[str, int, int]
"""Name, parameters, and FLOPs of one forward pass of all images."""


CONVENTION = (
    "GFLOP: 10⁹ floating-point operations of convolutions, matrix products and attention; a multiplication and an "
    "addition are two. Papers that count a multiply-add as one give half as many."
)


def section_costs(setting: Setting) -> list[Section]:
    """Return the cost of the model's children, with the backbone split into the bottom-up network and the rest.

    Raises:
        ConfigError: see :meth:`.memory.Setting.flops`.
    """
    flops = setting.flops()
    found: list[Section] = []
    for name, module in _children(setting.measured.model):
        parameters = sum(parameter.numel() for parameter in module.parameters())
        section = (name, parameters, flops.get(name, 0))
        if name == "backbone" and found and found[-1][0].startswith("backbone."):
            section = (f"rest of {name}", section[1] - found[-1][1], section[2] - found[-1][2])
        found.append(section)
    return [section for section in found if any(section[1:])]


def _children(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children by name; before a backbone, the network inside it that makes its maps, if any."""
    for name, module in model.named_children():
        for inner in ("bottom_up", "net"):
            if name == "backbone" and hasattr(module, inner):
                yield f"{name}.{inner}", getattr(module, inner)
        yield name, module


def cost_table(sections: Sequence[Section]) -> str:
    """Return a Markdown table with the sum."""
    total = ("**all**", sum(section[1] for section in sections), sum(section[2] for section in sections))
    rows = [
        [name, f"{parameters:,}", f"{flops / 1e9:,.1f}"] for name, parameters, flops in (*sections, total)
    ]
    return f"{_table(rows, ['section', 'parameters', 'GFLOP, forward'])}\n\n{CONVENTION}"


def memory_table(memory: Mapping[str, int]) -> str:
    """Return a Markdown table of bytes by what they are for, in GiB, with the sum."""
    rows = [[name, f"{size / 2**30:.2f}"] for name, size in memory.items()]
    return _table([*rows, ["**peak**", f"{sum(memory.values()) / 2**30:.2f}"]], ["memory", "GiB"])


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, "github", colalign=align, disable_numparse=True)
