"""Layers under torch.export and torch.jit.trace: open sizes, the same numbers."""

import pytest
import torch
from torch import nn

from lesa_d2.compat import TorchDispatchMode
from lesa_d2.layers import LESA, AttentionAugmentation, SelfAttention, positions
from lesa_d2.layers.attention import BACKENDS, exported, relative_attention
from lesa_d2.layers.exporting import sizes_are_open


class Asks(nn.Module):
    def forward(self, x):
        return x + int(sizes_are_open())


def test_only_traces_open_sizes():
    assert not sizes_are_open()
    program = torch.export.export(Asks(), (torch.zeros(2),))
    assert program.module()(torch.zeros(2)).tolist() == [1, 1]
    assert torch.jit.trace(Asks(), torch.zeros(2))(torch.zeros(2)).tolist() == [1, 1]
    assert not sizes_are_open()
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


@pytest.mark.parametrize("positions", ["decomposed", "flattened"])
@pytest.mark.parametrize("operator", [LESA, SelfAttention, AttentionAugmentation])
def test_any_size_from_one_jit_trace(operator, positions):
    if positions not in operator.position_types:
        return
    layer = operator(16, 16, num_heads=2, feat_size=(6, 7), positions=positions, stride=2).eval()
    with torch.no_grad():
        traced = torch.jit.trace(layer, torch.randn(2, 16, 6, 7), check_trace=False)
        for shape in ((2, 16, 6, 7), (1, 16, 1, 1), (2, 16, 1, 5), (3, 16, 9, 4), (1, 16, 40, 45)):
            x = torch.randn(shape)
            torch.testing.assert_close(traced(x), layer(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trace_holds_stock_operators_and_parts_of_the_queries(backend, monkeypatch):
    """With any backend: nothing of ours is needed to run it, and no map of all pairs is made."""
    monkeypatch.setattr("lesa_d2.layers.attention.machine_obstacle", lambda: None)
    side, heads = 16, 2

    def attend(q, bias):
        return relative_attention(q, q, q, bias, bias, backend)

    inputs = torch.randn(1, heads, side**2, 4), torch.randn(1, heads, side**2, side)
    traced = torch.jit.trace(attend, inputs, check_trace=False)
    assert not [n for n in traced.inlined_graph.nodes() if n.kind().startswith("lesa_d2")]
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        exported.exported_attention(inputs[0], inputs[0], inputs[0], inputs[1], inputs[1])
    assert largest <= heads * (side**2 // exported.PARTS + 2) * side**2
    torch.testing.assert_close(
        traced(*inputs), relative_attention(inputs[0], *[inputs[0]] * 2, *[inputs[1]] * 2)
    )
