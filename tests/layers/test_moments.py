"""Closed-form moments against mean and variance of the maps themselves."""

import pytest
import torch

from lesa_d2.layers.attention.reference import relative_logits
from lesa_d2.layers.moments import Moments, content_moments, pair_moments, relative_moments
from lesa_d2.layers.positions import DecomposedPositions

SIZES = [(1, 1), (1, 5), (4, 3), (6, 6)]


def of_map(logits):
    """Moments of maps (N, G, n, n), head by head."""
    variance, mean = torch.var_mean(logits, (0, 2, 3), correction=0)
    return Moments(mean, variance, logits.shape[0] * logits.shape[2] ** 2)


def assert_same(closed, plain, leaves):
    """Values, and gradients of all leaves."""
    assert closed.count == plain.count
    for ours, theirs in zip(closed[:2], plain[:2], strict=True):
        torch.testing.assert_close(ours, theirs)
        weight = torch.randn_like(ours)
        torch.testing.assert_close(
            torch.autograd.grad((ours * weight).sum(), leaves, retain_graph=True),
            torch.autograd.grad((theirs * weight).sum(), leaves, retain_graph=True),
        )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("images", [1, 3])
def test_content(images, size):
    q, k = (torch.randn(images, 2, size[0] * size[1], 4, dtype=torch.double) + 1.5 for _ in range(2))
    leaves = [q.requires_grad_(), k.requires_grad_()]
    assert_same(content_moments(q, k), of_map(q @ k.mT), leaves)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("images", [1, 3])
def test_relative(images, size):
    positions = DecomposedPositions(4, 5).double()
    q = torch.randn(images, 2, size[0] * size[1], 4, dtype=torch.double, requires_grad=True)
    closed = relative_moments(q, *positions.embeddings(size))
    plain = of_map(relative_logits(*positions(q, size)))
    used = [q] if size == (1, 1) else [q, positions.rel_width]
    assert_same(closed, plain, used)


@pytest.mark.parametrize("places", [1, 6])
@pytest.mark.parametrize("images", [1, 3])
def test_pairs(images, places):
    q = torch.randn(images, 2, places, 4, dtype=torch.double, requires_grad=True)
    embeddings = torch.randn(places, places, 4, dtype=torch.double, requires_grad=True)
    plain = of_map(torch.einsum("bgic,ijc->bgij", q, embeddings))
    assert_same(pair_moments(q, embeddings), plain, [q, embeddings])


def test_nothing_cancels_in_float32():
    """Logits near 10⁴ that vary by a few: mean square minus squared mean has no correct digit."""
    q, k = (torch.randn(1, 1, 400, 4) * 0.01 + 50 for _ in range(2))
    variance = content_moments(q, k).variance
    exact = of_map(q.double() @ k.double().mT).variance
    torch.testing.assert_close(variance.double(), exact, rtol=1e-4, atol=0)
    naive = (q @ k.mT).square().mean() - (q @ k.mT).mean().square()
    assert abs(naive - exact) > 0.1 * exact


def test_empty_batch_has_no_moments_but_zeros():
    moments = content_moments(torch.empty(0, 2, 6, 4), torch.empty(0, 2, 6, 4))
    assert moments.count == 0
    assert moments.mean.tolist() == moments.variance.tolist() == [0, 0]


def test_terms_side_by_side():
    one, two = (Moments(torch.full((2,), float(i)), torch.ones(2), 9) for i in range(2))
    both = Moments.of_terms([one, two])
    assert both.mean.tolist() == [0, 0, 1, 1]
    assert both.count == 9
