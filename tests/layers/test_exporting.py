"""Layers under torch.export: open sizes, the same numbers."""

import pytest
import torch
from torch import nn

from lesa_d2.layers import LESA, AttentionAugmentation, SelfAttention, positions
from lesa_d2.layers.exporting import sizes_are_open


class Asks(nn.Module):
    def forward(self, x):
        return x + sizes_are_open()


def test_only_exporting_opens_sizes():
    assert not sizes_are_open()
    program = torch.export.export(Asks(), (torch.zeros(2),))
    assert program.module()(torch.zeros(2)).tolist() == [1, 1]
    assert torch.compile(Asks(), backend="eager")(torch.zeros(2)).tolist() == [0, 0]


def test_interpolation_to_the_same_length_is_exact(monkeypatch):
    table = torch.randn(17, 5)
    assert positions.resize_offsets(table, 9, 0) is table
    monkeypatch.setattr(positions, "sizes_are_open", lambda: True)
    assert torch.equal(positions.resize_offsets(table, 9, 0), table)


@pytest.mark.parametrize("operator", [LESA, SelfAttention, AttentionAugmentation])
def test_any_size_from_one_trace(operator):
    layer = operator(16, 16, num_heads=2, feat_size=(6, 7)).eval()
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    example = torch.randn(2, 16, 6, 7)  # the tables' own size
    with torch.no_grad():
        traced = torch.export.export(layer, (example,), dynamic_shapes={"x": axes}).module()
        for shape in ((2, 16, 6, 7), (1, 16, 2, 2), (3, 16, 9, 4), (1, 16, 40, 45)):
            x = torch.randn(shape)
            torch.testing.assert_close(traced(x), layer(x))
