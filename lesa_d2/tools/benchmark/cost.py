"""Parameters and FLOP of a model, part by part.

A multiplication and an addition count as two FLOP; norms, activations and other element-wise work nothing.
Attention counts as its plain formula, whatever computes it: the other backends do the same
multiplications, some of them again in the backward pass, and a counter does not see into them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ...layers import AttentionAugmentation
from ...layers.binary import BinaryTerm
from .memory import without_numbers
from .passes import Pass, Regions, explained_failures, padded_size, parts


@dataclass(frozen=True)
class PartCost:
    """Of a part of a model; ``flops`` of one forward pass of all images."""

    name: str
    parameters: int
    flops: int


def part_costs(
    build: Callable[[], nn.Module], size: tuple[int, int], images: int, regions: Regions | None
) -> list[PartCost]:
    """Parameters and FLOP of each part.

    Args:
        build: makes the model, in the mode (training or not) it is to be run in, its poolers spread evenly.
        size: (H, W) of the images, before padding.
        images: of one pass.
        regions: see :class:`Regions`.

    Raises:
        ConfigError: see :func:`.passes.parts`; or the model cannot be run on so little.
    """
    with explained_failures(size, images), without_numbers(), torch.no_grad():
        model = build()
        by_formula(model)
        run = Pass(model, torch.empty(images, 3, *padded_size(model, size)), regions)
        return list(_costs(run))


def _costs(run: Pass) -> Iterator[PartCost]:
    counted: set[int] = set()
    steps = parts(run)
    while True:
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            part = next(steps, None)
        if part is None:
            return
        name, path = part
        parameters = 0
        for parameter in run.model.get_submodule(path).parameters():
            if id(parameter) not in counted:
                counted.add(id(parameter))
                parameters += parameter.numel()
        yield PartCost(name, parameters, counter.get_total_flops())


def by_formula(model: nn.Module) -> None:
    """Have every attention computed by its plain formula, in place."""
    for module in model.modules():
        if isinstance(module, (BinaryTerm, AttentionAugmentation)):
            module.backend = "reference"


def deform_conv_flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *args: Any,
    out_shape: Sequence[int],
    **kwargs: Any,
) -> int:
    """Those of the convolution; finding the samples between pixels is not counted."""
    images, channels, height, width = out_shape
    per_output = 1
    for size in weight_shape[1:]:
        per_output *= size
    return 2 * images * channels * height * width * per_output


FORMULAS = {torch.ops.torchvision.deform_conv2d: deform_conv_flops}
"""Operators that torch's counter does not know."""


def cost_table(costs: Sequence[PartCost]) -> str:
    """Markdown, with the sum."""
    total = PartCost("**all**", sum(c.parameters for c in costs), sum(c.flops for c in costs))
    rows = [[c.name, f"{c.parameters:,}", f"{c.flops / 1e9:,.1f}"] for c in (*costs, total)]
    headers = ["part", "parameters", "GFLOP, forward"]
    align = ("left", "right", "right")
    return tabulate(rows, headers, "github", colalign=align, disable_numparse=True)
