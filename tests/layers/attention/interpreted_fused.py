"""The fused kernels in Triton's interpreter; run by test_fused.py: Triton decides on it when imported."""

import copy

import bfloat16_interpreter  # noqa: F401, makes bfloat16 right
import pytest
import torch
from exactness import (
    TOLERANCE,
    assert_equals_definition,
    by_channel,
    make_far_inputs,
    make_inputs,
    rounding_of_logits,
)
from waits import CountWaits

from lesa_d2.layers import LESA, EvalBatchNorm2d
from lesa_d2.layers.attention import fastest_backend, fused, relative_attention
from lesa_d2.layers.attention.tiles import segment_for
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
@pytest.mark.parametrize("dtype", [torch.float, torch.float16, torch.bfloat16])
def test_equals_the_definition(shape, dtype):
    torch.manual_seed(0)
    assert_equals_definition(make_inputs(*shape, dtype), "fused")


@pytest.mark.parametrize(
    ("size", "channels", "queries"),
    [((25, 34), (6, 3), None), ((7, 63), (12, 6), None), ((1, 40), (16, 32), None), ((80, 80), (16, 32), 70)],
)
def test_maps_of_detectors(size, channels, queries):
    torch.manual_seed(0)
    # On a map of one row the gradient of its bias is zero, and what is found is the rounding of the output.
    tolerance = 2 * TOLERANCE[torch.bfloat16] if size[0] == 1 else None
    inputs = make_inputs(1, 1, *size, *channels, torch.bfloat16, queries=queries)
    assert_equals_definition(inputs, "fused", tolerance=tolerance)


@pytest.mark.parametrize("channels", [(64, 128), (96, 96), (128, 128)])
@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16])
def test_wide_heads(channels, dtype):
    torch.manual_seed(0)
    assert_equals_definition(make_inputs(1, 1, 3, 17, *channels, dtype, scale=0.5), "fused")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_errors_are_those_of_rounded_inputs(dtype):
    """Products and weights in half precision add less than the rounding of what goes in has brought already."""
    torch.manual_seed(0)
    wide = make_inputs(1, 2, 7, 20, 16, 32, torch.double)
    weight = torch.randn(1, 2, 140, 32, dtype=torch.double)
    rounded = [t.detach().to(dtype) for t in wide[:3]] + [t.detach().float() for t in wide[3:]]

    def results(inputs, backend):
        inputs = [t.detach().clone().requires_grad_() for t in inputs]
        out = relative_attention(*inputs, backend=backend)
        return [out, *torch.autograd.grad((out * weight.to(out.dtype)).sum(), inputs)]

    exact = results(wide, "reference")
    of_rounding, ours = results([t.double() for t in rounded], "reference"), results(rounded, "fused")
    for name, one, two, true in zip(
        ("output", "q", "k", "v", "col_bias", "row_bias"), of_rounding, ours, exact, strict=True
    ):
        least, error = ((t.double() - true).square().mean().sqrt() for t in (one, two))
        assert error < 1.5 * least, (name, float(error / least))


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


@pytest.mark.parametrize("excluded", ["row", "column"])
@pytest.mark.parametrize("dtype", [torch.float, torch.float16, torch.bfloat16])
def test_excluded_keys(excluded, dtype):
    """The first tiles of the walk may hold no key at all."""
    torch.manual_seed(0)
    inputs = make_inputs(1, 1, 4, 20, 4, 8, dtype)
    with torch.no_grad():
        inputs[4 if excluded == "row" else 3][..., : 3 if excluded == "row" else 19] = float("-inf")
    assert_equals_definition(inputs, "fused")


@pytest.mark.parametrize("size", [1e5, 2.0**23, 2.0**25, 1e12, 1e30])
def test_logits_of_any_size(size):
    """The shift of the softmax is a whole number, which floating point numbers of such sizes are."""
    q, k, v, col_bias, row_bias = (t.detach() for t in make_inputs(1, 1, 3, 5, 4, 4, torch.float))
    for sign in (1, -1):
        biases = (col_bias + sign * size, row_bias)
        out = relative_attention(q, k, v, *biases, backend="fused")
        expected = relative_attention(q, k, v, *biases, backend="reference")
        assert out.isfinite().all()
        if size < 1e6:
            torch.testing.assert_close(out, expected, rtol=0.2, atol=0.05)
        assert out.max() <= v.max() + 1e-5


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


def test_nothing_waits_for_the_device():
    """As a CUDA graph requires, which records launches and no wait."""
    torch.manual_seed(0)
    operator = LESA(16, 16, num_heads=2, feat_size=6, backend="fused", norm=EvalBatchNorm2d).train()
    operator(torch.randn(1, 16, 5, 6)).sum().backward()  # what is computed once comes before the recording
    with CountWaits() as counted:
        operator(torch.randn(1, 16, 5, 6)).sum().backward()
    assert counted.by("lesa_d2") == {}


@pytest.mark.parametrize(
    ("width", "segment"), [(64, 32), (80, 16), (40, 16), (14, 16), (90, 32), (34, 16), (1, 16)]
)
def test_segments_fit_rows(width, segment):
    assert segment_for(width, 64) == segment
    assert segment_for(width, 16) == 16


def test_auto_does_not_take_the_interpreter():
    assert fastest_backend(*make_inputs(1, 1, 2, 2, 2, 2, torch.float)).run is not fused.fused_attention
