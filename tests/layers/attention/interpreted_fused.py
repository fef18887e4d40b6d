"""The fused kernels in Triton's interpreter; run by test_fused.py: Triton decides on it when imported.

bfloat16 is left out: the interpreter multiplies its bit patterns as integers.
"""

import copy

import pytest
import torch
from exactness import (
    assert_equals_definition,
    by_channel,
    make_far_inputs,
    make_inputs,
    rounding_of_logits,
)

from lesa_d2.layers import LESA, EvalBatchNorm2d
from lesa_d2.layers.attention import fastest_backend, fused, relative_attention
from lesa_d2.layers.attention.fused import segment_for
from lesa_d2.layers.definition import lesa

SHAPES = [  # images, heads, height, width, key and value channels
    (1, 1, 1, 1, 4, 4),
    (2, 3, 5, 7, 3, 5),
    (1, 2, 9, 16, 16, 32),
    (1, 1, 3, 70, 8, 20),  # rows of several segments, several blocks of queries
    (1, 1, 20, 5, 17, 33),
    (3, 1, 1, 40, 2, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float, torch.float16])
def test_equals_the_definition(shape, dtype):
    torch.manual_seed(0)
    assert_equals_definition(make_inputs(*shape, dtype), "fused")


@pytest.mark.parametrize("queries", [1, 70])
def test_other_queries_than_keys(queries):
    torch.manual_seed(0)
    assert_equals_definition(make_inputs(1, 2, 3, 40, 4, 8, torch.float, queries=queries), "fused")


def test_biases_may_be_wider_than_the_vectors():
    torch.manual_seed(0)
    inputs = make_inputs(1, 2, 4, 6, 8, 8, torch.float16)
    inputs[3:] = [t.detach().float().requires_grad_() for t in inputs[3:]]
    assert_equals_definition(inputs, "fused")


@pytest.mark.parametrize("scale", [5.0, 100.0])
def test_large_logits(scale):
    torch.manual_seed(0)
    inputs = make_inputs(1, 2, 5, 7, 4, 3, torch.float, scale)
    assert_equals_definition(inputs, "fused", tolerance=rounding_of_logits(inputs))


def test_logits_far_from_zero():
    torch.manual_seed(0)
    inputs = make_far_inputs(torch.float)
    assert_equals_definition(inputs, "fused", tolerance=rounding_of_logits(inputs))


def test_memory_order_and_empty_batch():
    torch.manual_seed(0)
    assert_equals_definition([by_channel(t) for t in make_inputs(2, 2, 4, 5, 6, 7, torch.float)], "fused")
    out = relative_attention(*make_inputs(0, 2, 3, 4, 2, 3, torch.float), backend="fused")
    out.sum().backward()
    assert out.shape == (0, 2, 12, 3)


def test_excluded_first_row():
    """The first tiles of the walk hold no key at all."""
    q, k, v, col_bias, row_bias = (t.detach() for t in make_inputs(1, 1, 3, 4, 2, 2, torch.float))
    row_bias[..., 0] = float("-inf")
    expected = relative_attention(q, k, v, col_bias, row_bias, "reference")
    torch.testing.assert_close(relative_attention(q, k, v, col_bias, row_bias, "fused"), expected)


@pytest.mark.parametrize("norm", [torch.nn.BatchNorm2d, EvalBatchNorm2d])
def test_whole_operator(norm):
    torch.manual_seed(0)
    fast = LESA(16, 16, num_heads=2, feat_size=6, backend="fused", norm=norm).train()
    plain = copy.deepcopy(fast)
    x = torch.randn(2, 16, 5, 6)
    outs = [fast(x), lesa(plain, x)]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)
    for out in outs:
        out.square().sum().backward()
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("width", "segment"), [(64, 32), (80, 32), (40, 16), (14, 16), (90, 32), (1, 16)])
def test_segments_fit_rows(width, segment):
    assert segment_for(width) == segment


def test_auto_does_not_take_the_interpreter():
    assert fastest_backend(*make_inputs(1, 1, 2, 2, 2, 2, torch.float)).run is not fused.fused_attention
