"""Batch norms folded into scales, against the norms themselves."""

import copy
from functools import partial

import pytest
import torch
from busy_norm import busy_norm
from ranks import in_processes
from torch import nn
from torch.nn.utils import prune
from waits import CountWaits

from lesa_d2.layers import LESA, EvalBatchNorm2d, SelfAttention
from lesa_d2.layers.definition import lesa
from lesa_d2.layers.folding import batch_affine, check_is_batch_norm, conv_norm
from lesa_d2.layers.moments import Moments


def moments_of(x):
    if not len(x):
        return Moments(x.sum((0, 2, 3)), x.sum((0, 2, 3)), 0)
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return Moments(mean, variance, x.numel() // x.shape[1])


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_batch_affine_is_the_norm_for_several_steps(momentum):
    norm = busy_norm(nn.BatchNorm2d(3, momentum=momentum).double()).train()
    ours = copy.deepcopy(norm)
    for _ in range(3):
        x = torch.randn(2, 3, 4, 5, dtype=torch.double)
        scale, shift = batch_affine(ours, moments_of(x))
        torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], norm(x))
    assert norm.num_batches_tracked == 3
    torch.testing.assert_close(dict(ours.named_buffers()), dict(norm.named_buffers()))


def test_a_single_value_is_an_error():
    with pytest.raises(ValueError, match="more than one value"):
        batch_affine(nn.BatchNorm2d(3), Moments(torch.zeros(3), torch.zeros(3), 1))


def test_an_empty_batch_moves_nothing():
    norm = busy_norm(nn.BatchNorm2d(3))
    before = copy.deepcopy(norm.state_dict())
    scale, shift = batch_affine(norm, Moments(torch.zeros(3), torch.zeros(3), 0))
    torch.testing.assert_close(norm.state_dict(), before)
    assert scale.isfinite().all()
    assert shift.isfinite().all()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("make", [nn.BatchNorm2d, EvalBatchNorm2d])
def test_folded_convolution(make, groups):
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=groups, bias=False).double()
    norm = busy_norm(make(6).double()).train(make is EvalBatchNorm2d)
    x = torch.randn(2, 4, 5, 6, dtype=torch.double, requires_grad=True)
    leaves = [x, conv.weight, norm.weight, norm.bias]
    folded, plain = conv_norm(conv, norm, x), norm(conv(x))
    torch.testing.assert_close(folded, plain)
    weight = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad((folded * weight).sum(), leaves),
        torch.autograd.grad((plain * weight).sum(), leaves),
    )


def test_norms_that_do_not_fold_are_called():
    conv, norm, x = nn.Conv2d(4, 6, 1, bias=False), nn.GroupNorm(2, 6), torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(conv_norm(conv, norm, x), norm(conv(x)))


def test_a_batch_norm_with_arithmetic_of_its_own_is_refused():
    class Clever(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(TypeError, match="got Clever"):
        check_is_batch_norm(Clever(3))


def _synchronised(counts, rank):
    torch.manual_seed(0)
    values = (torch.randn(sum(counts), 3, 1, 1, dtype=torch.double) + 2.0).split(counts)[rank]
    weights = torch.arange(float(sum(counts)), dtype=torch.double).split(counts)[rank]
    norm, share = nn.SyncBatchNorm(3).double(), values.clone().requires_grad_()
    with CountWaits() as counted:
        scale, shift = batch_affine(norm, moments_of(share))
    out = share * scale[:, None, None] + shift[:, None, None]
    (out * weights[:, None, None, None]).sum().backward()
    return [out.detach(), share.grad, *norm.buffers()], counted.by("lesa_d2")


@pytest.mark.parametrize("counts", [[5, 2], [3, 0, 1, 2], [0, 0]], ids=str)
def test_synchronised_moments_are_those_of_all_processes(tmp_path, counts):
    """Two or four processes with some values a channel equal one with all, gradients and statistics too."""
    results = in_processes(len(counts), tmp_path, partial(_synchronised, counts))
    parts, waits = zip(*results, strict=True)
    assert not any(waits)
    torch.manual_seed(0)
    values = (torch.randn(sum(counts), 3, 1, 1, dtype=torch.double) + 2.0).requires_grad_()
    norm = nn.BatchNorm2d(3).double()
    if sum(counts):
        out = norm(values)
        (out * torch.arange(float(sum(counts)), dtype=torch.double)[:, None, None, None]).sum().backward()
        for i, wanted in enumerate((out.detach(), values.grad)):
            torch.testing.assert_close(torch.cat([part[i] for part in parts]), wanted)
    for part in parts:
        for got, wanted in zip(part[2:], list(norm.buffers()), strict=True):
            torch.testing.assert_close(got, wanted)


FOLDED = [
    "unary.project",
    "unary.norm",
    "binary.qkv",
    "binary.qkv_norm",
    "binary.logit_norm",
    "binary.out_norm",
]
FOLDED += ["gate.fc1", "gate.norm1", "gate.fc2", "gate.norm2"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("positions", ["decomposed", "flattened"])
@pytest.mark.parametrize("name", FOLDED)
def test_hooks_of_folded_modules_run_and_take_effect(name, positions, training):
    """A hook that changes nothing, and one that changes the output, compared with the definition."""
    layer = LESA(8, 8, num_heads=2, feat_size=(4, 5), positions=positions, norm=EvalBatchNorm2d).double()
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d):
            busy_norm(norm)
    layer.train(training)
    x, calls = torch.randn(2, 8, 4, 5, dtype=torch.double), []
    expected = layer(x)
    part = layer.get_submodule(name)
    observer = part.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))
    torch.testing.assert_close(layer(x), expected)
    assert len(calls) == 1
    observer.remove()
    part.register_forward_hook(lambda module, args, out: out.square())
    out = layer(x)
    torch.testing.assert_close(out, lesa(layer, x))
    assert not torch.allclose(out, expected)


def test_hooks_of_the_backward_pass_run():
    layer, calls = LESA(8, 8, num_heads=2, feat_size=4, norm=EvalBatchNorm2d), []
    for name in FOLDED:
        part = layer.get_submodule(name)
        part.register_full_backward_hook(lambda module, before, after, name=name: calls.append(name))
    layer(torch.randn(2, 8, 4, 4)).sum().backward()
    assert sorted(calls) == sorted(FOLDED)


def test_a_logit_norm_with_hooks_without_the_own_position():
    term = SelfAttention(8, 8, num_heads=2, feat_size=(4, 5)).double().eval().binary
    term.without_self, x = True, torch.randn(2, 8, 4, 5, dtype=torch.double)
    expected = term(x)
    term.logit_norm.register_forward_hook(lambda module, args, out: None)
    torch.testing.assert_close(term(x), expected)


def test_pruned_and_spectrally_normalised_convolutions():
    """They keep their weights right by a hook before each call."""
    layer, x = LESA(8, 8, num_heads=2, feat_size=4).eval(), torch.randn(1, 8, 4, 4)
    prune.l1_unstructured(layer.gate.fc1, "weight", amount=0.5)
    torch.nn.utils.spectral_norm(layer.binary.qkv)
    with torch.no_grad():
        layer.gate.fc1.weight_orig.mul_(2)
        layer.binary.qkv.weight_orig.add_(1)
    out, expected = layer(x), lesa(layer, x)
    torch.testing.assert_close(out, expected)
