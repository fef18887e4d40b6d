import math

import pytest
import torch

from lesa_d2.layers.attention import BACKENDS, relative_attention
from lesa_d2.layers.attention.reference import relative_logits

SIZES = [(1, 1), (1, 5), (3, 4), (7, 2)]


def inputs(size, heads=2, dq=3, dv=5, dtype=torch.double):
    height, width = size
    places = height * width
    shapes = [dq, dq, dv, width, height]
    return [torch.randn(2, heads, places, last, dtype=dtype, requires_grad=True) for last in shapes]


def by_loops(q, k, v, col_bias, row_bias):
    """The formula written out for one image and head."""
    width = col_bias.shape[-1]
    rows = []
    for i in range(q.shape[0]):
        logits = torch.stack(
            [q[i] @ k[j] + col_bias[i, j % width] + row_bias[i, j // width] for j in range(k.shape[0])]
        )
        weights = logits.exp() / logits.exp().sum()
        rows.append(sum(weight * value for weight, value in zip(weights, v, strict=True)))
    return torch.stack(rows)


def test_two_places_by_hand():
    one = torch.ones(1, 1, 2, 1)
    v = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    col_bias = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]]).view(1, 1, 2, 2)
    out = relative_attention(one, one, v, col_bias, torch.zeros(1, 1, 2, 1))
    torch.testing.assert_close(out.flatten(), torch.tensor([0.75, 0.5]))


@pytest.mark.parametrize("size", SIZES)
def test_reference_is_the_formula(size):
    tensors = inputs(size)
    out = relative_attention(*tensors, backend="reference")
    for image in range(2):
        for head in range(2):
            torch.testing.assert_close(out[image, head], by_loops(*(t[image, head] for t in tensors)))


@pytest.mark.parametrize("backend", ["auto", *(name for name in BACKENDS if name != "fused")])
@pytest.mark.parametrize("size", SIZES)
def test_backends_equal_the_formula_with_all_gradients(backend, size):
    tensors = inputs(size)
    weight = torch.randn(2, 2, size[0] * size[1], 5, dtype=torch.double)
    out = relative_attention(*tensors, backend=backend)
    got = torch.autograd.grad((out * weight).sum(), tensors)
    expected_out = torch.stack(
        [torch.stack([by_loops(*(t[n, g] for t in tensors)) for g in range(2)]) for n in range(2)]
    )
    expected = torch.autograd.grad((expected_out * weight).sum(), tensors)
    torch.testing.assert_close(out, expected_out, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_relative_logits_by_hand():
    col_bias, row_bias = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0])
    logits = relative_logits(col_bias.expand(1, 1, 6, 3), row_bias.expand(1, 1, 6, 2))
    assert logits.shape == (1, 1, 6, 6)
    assert logits[0, 0, 4].tolist() == [11, 12, 13, 21, 22, 23]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype):
    """Logits of 300 overflow float16's softmax sums, and bfloat16 would keep 8 bits of them."""
    tensors = [(10 * t).to(dtype).detach() for t in inputs((3, 3))]
    wide = relative_attention(*(t.float() for t in tensors))
    out = relative_attention(*tensors)
    assert out.dtype == dtype
    torch.testing.assert_close(out, wide.to(dtype))


def test_shift_of_all_logits_changes_nothing():
    q, k, v, col_bias, row_bias = inputs((3, 4))
    torch.testing.assert_close(
        relative_attention(q, k, v, col_bias + 1000.0, row_bias),
        relative_attention(q, k, v, col_bias, row_bias),
    )


def test_unknown_backend_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown attention backend 'fast'.*reference"):
        relative_attention(*inputs((2, 2)), backend="fast")


@pytest.mark.parametrize("index", range(5))
def test_shapes_that_do_not_fit_are_named(index):
    tensors = inputs((2, 3))
    tensors[index] = torch.cat([tensors[index]] * 2, dim=2)
    with pytest.raises(ValueError, match=r"relative_attention expects .* got q \("):
        relative_attention(*tensors)


def test_biases_of_another_map_are_refused():
    q, k, v, col_bias, row_bias = inputs((2, 3))
    with pytest.raises(ValueError, match=r"n = H\*W"):
        relative_attention(q, k, v, col_bias, row_bias[..., :1])
