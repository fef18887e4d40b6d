"""The operators against their definition, and the definition against sums written out."""

import pytest
import torch
from test_operators import VARIANTS, make
from torch import nn

from lesa_d2.layers import LESA, SelfAttention
from lesa_d2.layers.definition import (
    DEFINITIONS,
    ByDefinition,
    attention,
    binary,
    by_definition,
    lesa,
    logits,
    softmax,
    split_attention,
)
from lesa_d2.testing import compare_steps


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_operators_compute_their_definition(variant):
    compare_steps(variant, DEFINITIONS[variant.operator])


@pytest.mark.parametrize("positions", ["decomposed", "flattened"])
def test_logits_are_those_of_every_pair(positions):
    """In eval mode, pair by pair, with the tables' entries looked up one by one."""
    size = height, width = 3, 4
    term = make(SelfAttention, positions, feat_size=size, num_heads=1).double().eval().binary
    q, k = torch.randn(2, 1, 1, height * width, term.key_dim, dtype=torch.double)
    norm, table, d = term.logit_norm, term.positions, term.key_dim
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = (norm.bias - norm.running_mean * scale).sum()
    got = logits(term, q, k, size)
    for i in range(height * width):
        for j in range(height * width):
            query, key = q[0, 0, i], k[0, 0, j]
            if positions == "decomposed":
                by_width = table.rel_width[j % width - i % width + width - 1]
                by_height = table.rel_height[j // width - i // width + height - 1]
                terms = [query @ key, query @ (by_width + by_height)]
            else:
                columns = (
                    table.table[:, i - j + height * width - 1],
                    table.table[:, j - i + height * width - 1],
                )
                terms = [query @ key, query @ columns[0][:d], key @ columns[1][d : 2 * d]]
            expected = shift + sum(s * t for s, t in zip(scale, terms, strict=True))
            torch.testing.assert_close(got[0, 0, i, j], expected)


def test_the_two_terms_of_attention_add_up():
    scores, v = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 4)
    own, others = split_attention(scores, v)
    torch.testing.assert_close(own + others, attention(scores, v))
    torch.testing.assert_close(
        own, scores.exp().diagonal(dim1=-2, dim2=-1)[..., None] / scores.exp().sum(-1, True) * v
    )


@pytest.mark.parametrize("positions", ["decomposed", "flattened"])
@pytest.mark.parametrize("own_position", ["dropped", "masked"])
def test_a_term_without_the_own_position(positions, own_position):
    term = make(SelfAttention, positions).double().eval().binary
    term.own_position = own_position
    x = torch.randn(2, 8, 4, 5, dtype=torch.double)
    torch.testing.assert_close(term(x), binary(term, x))


def test_dropping_the_own_position_leaves_the_binary_term_of_the_split():
    scores, v = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 4)
    torch.testing.assert_close(softmax(scores, "dropped") @ v, split_attention(scores, v)[1])


def test_the_operators_of_a_model_by_their_definition():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(make(LESA)), nn.ReLU()).double().eval()
    x = torch.randn(1, 3, 5, 6, dtype=torch.double)
    expected = model(x)
    layer = model[1][0]
    assert by_definition(model) is model
    assert isinstance(model[1][0], ByDefinition)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model[1][0](model[0](x)), lesa(layer, model[0](x)))
