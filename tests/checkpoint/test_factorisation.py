"""Factoring of dense kernels against what it is defined by: singular values, and least squares on real maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lesa_d2.checkpoint.factorisation import PatchMoments, ProjectionFit, box_filtered, box_fitted, factorise


def unary(factors, x, groups):
    return F.conv2d(F.conv2d(x, factors.grouped, padding=1, groups=groups), factors.project)


def relative(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def smooth_maps(channels, number=2, side=12):
    """Maps whose channels and positions are correlated, as behind a ReLU."""
    mixed = torch.einsum(
        "oc,nchw->nohw", torch.randn(channels, channels // 2), torch.randn(number, channels // 2, side, side)
    )
    return F.avg_pool2d(mixed, 3, stride=1, padding=1).relu()


@pytest.fixture
def kernel():
    return torch.randn(16, 24, 3, 3)


def test_the_energy_kept_is_that_of_the_largest_singular_values(kernel):
    factors = factorise(kernel, 4)
    assert factors.grouped.shape == (16, 6, 3, 3)
    assert factors.project.shape == (16, 16, 1, 1)
    values = torch.linalg.svdvals(torch.stack([group.flatten(1) for group in kernel.chunk(4, dim=1)]))
    assert factors.energy == pytest.approx(
        (values[:, :4].square().sum() / values.square().sum()).item(), rel=1e-5
    )


def test_matrices_of_the_rank_that_fits_are_exact():
    left, right = torch.randn(4, 16, 4), torch.randn(4, 4, 54)
    kernel = (left @ right).unflatten(2, (6, 3, 3)).transpose(0, 1).flatten(1, 2)
    factors = factorise(kernel, 4)
    x = torch.randn(2, 24, 7, 9)
    assert factors.energy == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(unary(factors, x, 4), F.conv2d(x, kernel, padding=1), rtol=1e-4, atol=1e-4)


def test_groups_without_energy_and_scales_of_zero_give_numbers(kernel):
    kernel[:, :6] = 0
    moments = PatchMoments(4)
    moments.add(torch.zeros(1, 24, 5, 5))
    factors = factorise(kernel, 4, moments.covariance(), torch.tensor([0.0, -2.0] * 8))
    assert torch.isfinite(factors.grouped).all()
    assert torch.isfinite(factors.project).all()


def test_the_covariance_is_that_of_centred_patches():
    maps = [smooth_maps(8) for _ in range(3)]
    moments = PatchMoments(2, stride=2)
    for x in maps:
        moments.add(x)
    patches = torch.cat([F.unfold(x, 3, padding=1, stride=2) for x in maps]).transpose(0, 1).flatten(1)
    for group, rows in enumerate(patches.chunk(2)):
        torch.testing.assert_close(
            moments.covariance()[group].float(), torch.cov(rows, correction=0), rtol=1e-3, atol=1e-4
        )


def test_covariance_and_least_squares_come_nearer_on_maps_that_were_not_seen(kernel):
    seen, unseen = smooth_maps(24, 8), smooth_maps(24, 8)
    mixing = torch.randn(24, 24)
    seen, unseen = (torch.einsum("oc,nchw->nohw", mixing, x).relu() for x in (seen, unseen))
    moments = PatchMoments(4)
    moments.add(seen)

    def dense(x):
        return F.conv2d(x, kernel, padding=1)

    plain, fitted = factorise(kernel, 4), factorise(kernel, 4, moments.covariance())
    fit = ProjectionFit()
    fit.add(F.conv2d(seen, fitted.grouped, padding=1, groups=4), dense(seen))
    errors = []
    for factors, project in (
        (plain, plain.project),
        (fitted, fitted.project),
        (fitted, fit.solve(fitted.project)),
    ):
        held_out = ProjectionFit()
        held_out.add(F.conv2d(unseen, factors.grouped, padding=1, groups=4), dense(unseen))
        errors.append(held_out.error(project, torch.ones(16)))
    assert errors[0] > errors[1] > errors[2]


def test_the_error_is_relative_centred_and_scaled():
    features, targets, project = torch.randn(2, 6, 5, 5), 3 + torch.randn(2, 6, 5, 5), torch.randn(6, 6, 1, 1)
    fit, scale = ProjectionFit(), torch.rand(6)
    fit.add(features[:1], targets[:1])
    fit.add(features[1:], targets[1:])
    got = F.conv2d(features, project)

    def centred(maps):
        rows = maps.transpose(0, 1).flatten(1)
        return scale[:, None] * (rows - rows.mean(1, keepdim=True))

    wanted = (centred(targets - got).norm() / centred(targets).norm()).item()
    assert fit.error(project, scale) == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(
        fit.variance(project).float(),
        got.transpose(0, 1).flatten(1).var(1, correction=0),
        rtol=1e-4,
        atol=1e-5,
    )


def test_least_squares_stays_where_the_features_do_not_vary():
    features, project = torch.randn(1, 6, 8, 8), torch.randn(6, 6, 1, 1)
    features[:, 3:] = 1.0
    fit = ProjectionFit()
    fit.add(features, torch.randn(1, 6, 8, 8))
    torch.testing.assert_close(fit.solve(project)[:, 3:], project[:, 3:], rtol=1e-3, atol=1e-3)


def test_a_fitted_kernel_averaged_comes_nearer_to_stride_2_than_a_copy(kernel):
    x = torch.randn(4, 24, 32, 32)
    wanted = F.conv2d(x, kernel, stride=2, padding=1)
    pooled = {
        name: F.avg_pool2d(F.conv2d(x, k, padding=1), 2)
        for name, k in (("copy", kernel), ("fit", box_fitted(kernel)))
    }
    assert relative(pooled["fit"], wanted) < 0.8 * relative(pooled["copy"], wanted)


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_filtered_maps_are_what_the_pool_of_a_slot_averages(size):
    x = torch.randn(2, 3, *size)
    pool = nn.AvgPool2d(2, stride=2, ceil_mode=True)
    torch.testing.assert_close(box_filtered(x)[..., ::2, ::2], pool(x))
