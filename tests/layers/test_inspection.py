"""Questions to the operators' attention, against the map of all pairs in the definition's words."""

import itertools

import pytest
import torch
from test_operators import make
from torch import nn

from lesa_d2.layers import OPERATORS, AttentionAugmentation, InspectableAttention, SelfAttention
from lesa_d2.layers.binary import DecomposedBinaryTerm, FlattenedBinaryTerm

VARIANTS = [
    pytest.param(operator, positions, id=f"{name}-{positions}")
    for name, operator in OPERATORS.items()
    for positions in operator.position_types
]
BINARY = list(itertools.product((DecomposedBinaryTerm, FlattenedBinaryTerm), ("auto", "reference")))
SIZES = [(6, 6), (5, 7), (1, 3), (1, 1)]


def attention_in(operator):
    return next(m for m in operator.modules() if isinstance(m, InspectableAttention))


def make_term(kind, backend="auto"):
    positions = "decomposed" if kind is DecomposedBinaryTerm else "flattened"
    return make(SelfAttention, positions, backend=backend).double().eval().binary


def logits_of(term, x):
    """Every logit of the definition, each of its terms through the logit norm: (N, G, n, n)."""
    size = (x.shape[2], x.shape[3])
    q, k, v = term.split_heads(term.qkv_norm(term.qkv(x)))
    if isinstance(term, FlattenedBinaryTerm):
        rq, rk, rv = term.positions(size)
        relative = [torch.einsum("bgic,cij->bgij", q, rq), torch.einsum("bgjc,cij->bgij", k, rk)]
    else:
        rv = None
        columns, rows = term.positions.embeddings(size)
        y, x_ = (t.flatten() for t in torch.meshgrid(*map(torch.arange, size), indexing="ij"))
        embedding = columns[x_[:, None], x_[None]] + rows[y[:, None], y[None]]
        relative = [torch.einsum("bgic,ijc->bgij", q, embedding)]
    normalised = term.logit_norm(torch.cat([q @ k.mT, *relative], 1))
    return normalised.unflatten(1, (term.num_logit_terms, -1)).sum(1), v, rv


@pytest.mark.parametrize(("kind", "backend"), BINARY)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_binary_term_weights_are_those_of_the_map(kind, backend, size):
    term, x = make_term(kind, backend), torch.randn(2, 8, *size, dtype=torch.double)
    weights = logits_of(term, x)[0].softmax(-1)
    own, rest = term.self_weights(x)
    diagonal = weights.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(own, diagonal)
    torch.testing.assert_close(rest, (weights - diagonal.diag_embed()).sum(-1))
    for y, x_ in ((0, 0), (size[0] - 1, size[1] // 2)):
        seen = term.attention_of(x, (y, x_))
        torch.testing.assert_close(seen.flatten(2), weights[:, :, y * size[1] + x_])


@pytest.mark.parametrize(("kind", "backend"), BINARY)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("own_position", ["dropped", "masked"])
def test_binary_term_without_the_own_position(kind, backend, size, own_position):
    """Both p·v and the flattened type's relative values lose the position: every map in float64, as written."""
    term, x = make_term(kind, backend), torch.randn(2, 8, *size, dtype=torch.double)
    logits, v, rv = logits_of(term, x)
    own = torch.eye(logits.shape[-1], dtype=torch.bool)
    exponentials = logits.exp()
    weights = exponentials.masked_fill(own, 0)
    whole = exponentials if own_position == "dropped" else weights
    weights = weights / whole.sum(-1, keepdim=True).clamp_min(1e-300)  # 0/0 on a 1×1 map
    values = [weights @ v]
    if rv is not None:
        values.append(torch.einsum("bgij,cij->bgic", weights, rv))
    out = torch.stack(values, -1).permute(0, 1, 3, 4, 2).flatten(1, 3).unflatten(2, size)
    expected = term.out_norm(out).unflatten(1, (-1, len(values))).sum(2)
    before = term(x)
    term.own_position = own_position
    torch.testing.assert_close(term(x), expected)
    term.own_position = "kept"
    torch.testing.assert_close(term(x), before, rtol=0, atol=0)
    assert not torch.allclose(before, expected)


def test_attention_augmentation_answers_too():
    layer = make(AttentionAugmentation).double().eval()
    x = torch.randn(1, 8, 4, 5, dtype=torch.double)
    q, k, v, *_ = layer.attention_inputs(x)
    columns, rows = layer.positions.embeddings((4, 5))
    places = range(20)
    embedding = torch.stack(
        [torch.stack([columns[i % 5, j % 5] + rows[i // 5, j // 5] for j in places]) for i in places]
    )
    logits = q @ k.mT + torch.einsum("bgic,ijc->bgij", q, embedding)
    weights = logits.softmax(-1)
    own, rest = layer.self_weights(x)
    torch.testing.assert_close(own, weights.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(own + rest, torch.ones_like(own))
    torch.testing.assert_close(layer.attention_of(x, (2, 3)).flatten(2), weights[:, :, 13])
    before = layer(x)
    own = torch.eye(20, dtype=torch.bool)
    for own_position, remaining in (
        ("dropped", weights.masked_fill(own, 0)),
        ("masked", logits.masked_fill(own, -torch.inf).softmax(-1)),
    ):
        layer.own_position = own_position
        attended = layer.project((remaining @ v).mT.flatten(1, 2).unflatten(2, (4, 5)))
        expected = layer.norm(torch.cat([layer.conv(x), attended], 1))
        torch.testing.assert_close(layer(x), expected)
        assert not torch.allclose(before, expected)


@pytest.mark.parametrize(("operator", "positions"), VARIANTS)
def test_half_precision_and_autocast(operator, positions):
    layer, x = make(operator, positions).eval(), torch.randn(1, 8, 5, 6)
    own, _ = attention_in(layer).self_weights(x)
    attention_in(layer).own_position = "dropped"
    expected = layer(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention_in(layer).self_weights(x)[0], own, rtol=0.2, atol=0.02)
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("operator", "positions"), VARIANTS)
def test_training_mode_is_refused(operator, positions):
    layer, x = make(operator, positions).train(), torch.randn(2, 8, 5, 6)
    attention = attention_in(layer)
    for ask in (attention.self_weights, lambda x: attention.attention_of(x, (0, 0))):
        with pytest.raises(RuntimeError, match=r"is for evaluation; call eval\(\)"):
            ask(x)
    attention.own_position = "dropped"
    with pytest.raises(RuntimeError, match=r"without the own position is for evaluation"):
        layer(x)


@pytest.mark.parametrize("position", [(5, 0), (0, 6), (-1, 0), (0, -1)])
def test_positions_outside_the_map_are_refused(position):
    term = make(SelfAttention).eval().binary
    with pytest.raises(ValueError, match="a map of 5×6 has no position"):
        term.attention_of(torch.randn(1, 8, 5, 6), position)


def test_inspection_leaves_the_state_alone():
    layer, x = make(SelfAttention).eval(), torch.randn(1, 8, 5, 6)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.binary.self_weights(x.requires_grad_())
    layer.binary.attention_of(x, (1, 1))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert isinstance(layer.binary, nn.Module)
