"""The own position's softmax weight, and attention without it, against the map of all pairs."""

import math

import pytest
import torch
from exactness import make_inputs
from torch.utils._python_dispatch import TorchDispatchMode

from lesa_d2.layers.attention import (
    attention_of,
    attention_without_self,
    blockwise,
    relative_attention,
    self_weights,
)
from lesa_d2.layers.attention.reference import reference_logits, softmax

SIZES = [(1, 2), (5, 7), (6, 6), (9, 4), (1, 1)]
SCALES = [0.01, 1.0, 10.0, 100.0]  # logits up to its square and more


@pytest.fixture(params=["whole", "cut"])
def blocks(request, monkeypatch):
    if request.param == "cut":
        monkeypatch.setattr(blockwise, "BLOCK_LOGITS", 60)
        monkeypatch.setattr(blockwise, "MIN_BLOCK_ROWS", 5)


def inputs(size, dtype=torch.double, scale=1.0):
    return [t.detach() for t in make_inputs(2, 2, *size, 4, 3, dtype, scale)]


def make_peaked(tensors, margin):
    """Queries like keys, so long that a position's logit for itself leads by about ``margin``."""
    _, k, v, col_bias, row_bias = tensors
    k = torch.nn.functional.normalize(torch.randn_like(k), dim=-1)
    return [margin * k, k, v, 0 * col_bias, 0 * row_bias]


def softmax_of_pairs(tensors):
    """(N, G, n, n) in float64."""
    q, k, _, col_bias, row_bias = (t.double() for t in tensors)
    return reference_logits(q, k, col_bias, row_bias).softmax(-1)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [torch.double, torch.float, torch.bfloat16])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_self_weights_are_the_diagonal_and_the_rest(size, scale, dtype):
    tensors = inputs(size, dtype, scale)
    q, k, _, col_bias, row_bias = tensors
    own, rest = self_weights(q, k, col_bias, row_bias)
    weights = softmax_of_pairs(tensors)
    diagonal = weights.diagonal(dim1=-2, dim2=-1)
    assert own.dtype == torch.double
    # relative to the weight itself: how sure a peaked softmax is must not be lost in rounding
    torch.testing.assert_close(own, diagonal, rtol=1e-9, atol=1e-30)
    torch.testing.assert_close(rest, (weights - diagonal.diag_embed()).sum(-1), rtol=1e-9, atol=1e-30)
    torch.testing.assert_close(own + rest, torch.ones_like(own), rtol=0, atol=1e-10)


def test_self_weights_by_hand():
    """Three positions in a row, own logits log 2, log 3, log 4, all others zero."""
    zeros = torch.zeros(1, 1, 3, 1)
    col_bias = torch.tensor([2.0, 3.0, 4.0]).log().diag()[None, None]
    own, rest = self_weights(zeros, zeros, col_bias, zeros)
    torch.testing.assert_close(own.flatten().tolist(), [2 / 4, 3 / 5, 4 / 6])
    torch.testing.assert_close(rest.flatten().tolist(), [2 / 4, 2 / 5, 2 / 6])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-12), (torch.float, 1e-5)])
@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_attention_without_self_is_the_sum_over_the_others(size, scale, dtype, tolerance):
    tensors = inputs(size, dtype, scale)
    weights, v = softmax_of_pairs(tensors), tensors[2].double()
    own = weights.diagonal(dim1=-2, dim2=-1)
    others = weights - own.diag_embed()  # of the softmax over all positions, in float64
    out = attention_without_self(*tensors)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), others @ v, rtol=tolerance, atol=tolerance)
    renormalised = attention_without_self(*tensors, renormalise=True)
    expected = others @ v / others.sum(-1, keepdim=True).clamp_min(1e-300)  # 0/0 on a 1×1 map
    torch.testing.assert_close(renormalised.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("margin", [100.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.double, torch.float])
def test_what_remains_is_exact_where_nearly_all_weight_was_the_own(margin, dtype):
    """(out − p_ii·v_i) / (1 − p_ii) would be rounding noise here."""
    tensors = make_peaked(inputs((4, 5), dtype), margin)
    assert softmax_of_pairs(tensors).diagonal(dim1=-2, dim2=-1).max() > 1 - 1e-7
    q, k, v, col_bias, row_bias = (t.double() for t in tensors)
    logits = reference_logits(q, k, col_bias, row_bias)
    expected = softmax(logits, "masked") @ v
    tolerance = 1e-9 if dtype == torch.double else margin * 1e-6
    out = attention_without_self(*tensors, renormalise=True).double()
    torch.testing.assert_close(out, expected, rtol=0, atol=tolerance)
    rest = (logits.masked_fill(torch.eye(20).bool(), -math.inf).logsumexp(-1) - logits.logsumexp(-1)).exp()
    rest = rest[
        ..., None
    ]  # how little remains; an error is measured by it, as far as float32 holds such numbers
    error = (attention_without_self(*tensors).double() - expected * rest).abs()
    assert (error <= 10 * tolerance * rest + 1e-37).all()


@pytest.mark.usefixtures("blocks")
def test_the_own_position_has_no_weight_at_all():
    """However small a weight were left to it: a value of 1e30 would show."""
    q, k, v, col_bias, row_bias = inputs((4, 5), torch.float, scale=10.0)
    v[:, :, 7] = 0
    expected = [attention_without_self(q, k, v, col_bias, row_bias, renormalise=r)[:, :, 7] for r in (0, 1)]
    v[:, :, 7] = 1e30
    out = [attention_without_self(q, k, v, col_bias, row_bias, renormalise=r)[:, :, 7] for r in (0, 1)]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("renormalise", [False, True])
def test_nothing_remains_of_a_single_position(renormalise):
    assert attention_without_self(*inputs((1, 1)), renormalise=renormalise).eq(0).all()
    assert softmax(torch.randn(2, 1, 1), "masked" if renormalise else "dropped").eq(0).all()


def test_softmax_without_the_own_position_by_hand():
    logits = torch.tensor([[9.0, 0.0, math.log(3.0)], [1.0, 9.0, 1.0], [-math.inf, 0.0, 9.0]])
    expected = torch.tensor([[0.0, 0.25, 0.75], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(softmax(logits, "masked"), expected)
    logits = torch.tensor([[2.0, 1.0, 1.0], [3.0, 1.0, 4.0], [1.0, 1.0, 8.0]]).log()
    expected = torch.tensor([[0.0, 0.25, 0.25], [3 / 8, 0.0, 4 / 8], [0.1, 0.1, 0.0]])
    torch.testing.assert_close(softmax(logits, "dropped"), expected)
    torch.testing.assert_close(softmax(logits).sum(-1), torch.ones(3))


@pytest.mark.parametrize("place", [0, 17, 34])
def test_attention_of_one_query_is_its_row(place):
    tensors = inputs((5, 7), torch.float, scale=3.0)
    q, k, _, col_bias, row_bias = tensors
    row = attention_of(q, k, col_bias, row_bias, place)
    torch.testing.assert_close(row.double(), softmax_of_pairs(tensors)[:, :, place], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("place", [-1, 35])
def test_a_query_outside_the_map_is_refused(place):
    q, k, _, col_bias, row_bias = inputs((5, 7))
    with pytest.raises(ValueError, match=f"one of the 35 positions, counted from 0, got {place}"):
        attention_of(q, k, col_bias, row_bias, place)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operator's result had."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.numel = max(self.numel, t.numel())
        return out


def test_no_map_of_all_pairs_exists(monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK_LOGITS", 2**19 // torch.get_num_threads())
    size = 64 * 64
    q, k, v, col_bias, row_bias = make_inputs(1, 1, 64, 64, 4, 4, torch.float)
    with torch.no_grad(), LargestTensor() as largest:
        own, rest = self_weights(q, k, col_bias, row_bias)
        attention_without_self(q, k, v, col_bias, row_bias)
        attention_of(q, k, col_bias, row_bias, 5)
    torch.testing.assert_close(own + rest, torch.ones_like(own))
    assert largest.numel <= blockwise.BLOCK_LOGITS * torch.get_num_threads() < size**2
    with torch.no_grad(), LargestTensor() as largest:
        relative_attention(q, k, v, col_bias, row_bias, "reference")
    assert largest.numel == size**2
