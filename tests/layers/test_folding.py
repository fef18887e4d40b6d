"""Batch norms folded into scales, against the norms themselves."""

import copy
import pickle
from functools import partial

import pytest
import torch
from busy_norm import busy_norm
from detectron2.layers import FrozenBatchNorm2d
from launches import CountCalls
from ranks import in_processes
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils import prune
from waits import CountWaits

from lesa_d2.engine.ema import make_ema
from lesa_d2.layers import LESA, EvalBatchNorm2d, SelfAttention
from lesa_d2.layers.definition import lesa
from lesa_d2.layers.folding import batch_affine, check_is_batch_norm, conv_norm, stored_affine
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


def frozen(make=nn.BatchNorm2d):
    return busy_norm(make(3)).eval().requires_grad_(False)


def affine_by_hand(norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def launches(norm):
    with torch.no_grad(), CountCalls() as counted:
        stored_affine(norm)
    return counted.launches


@pytest.mark.parametrize("make", [nn.BatchNorm2d, EvalBatchNorm2d, FrozenBatchNorm2d])
def test_a_scale_that_does_not_change_is_computed_once(make):
    norm = frozen(make)
    assert [launches(norm) for _ in range(3)] == [5, 0, 0]
    with torch.inference_mode():
        torch.testing.assert_close(stored_affine(norm), affine_by_hand(norm))
    x = torch.ones(3, requires_grad=True)
    (x * stored_affine(norm)[0]).sum().backward()  # tensors of inference mode could not be used here


def test_of_weights_that_train_the_statistics_are_used_once():
    norm = busy_norm(EvalBatchNorm2d(3)).train()
    assert [launches(norm) for _ in range(3)] == [5, 2, 2]
    scale, shift = stored_affine(norm)
    weight = torch.randn(2, 3)
    ours = torch.autograd.grad((weight * torch.stack([scale, shift])).sum(), [norm.weight, norm.bias])
    plain = torch.autograd.grad((weight * torch.stack(affine_by_hand(norm))).sum(), [norm.weight, norm.bias])
    torch.testing.assert_close(ours, plain)


def load(norm):
    norm.load_state_dict(busy_norm(nn.BatchNorm2d(3)).state_dict())


def train(norm):
    """PyTorch's batch norm changes the running statistics without a new version."""
    norm.train()(torch.randn(4, 3, 2, 2))
    norm.eval()


def average(norm):
    ema = make_ema(norm, 0.5)
    ema.module = norm
    for _ in range(2):
        ema.update_parameters(busy_norm(nn.BatchNorm2d(3)))


def step(norm):
    """A fused optimizer changes weights without a new version."""
    norm.requires_grad_(True)
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        norm(torch.randn(1, 3, 2, 2)).square().sum().backward()
        with torch.no_grad():
            stored_affine(norm)
        optimizer.step()


def replace(norm):
    norm.running_var = norm.running_var * 2


def change_dtype(norm):
    norm.half().float()


def move_data(norm):
    norm.weight.data = norm.weight.data * 3


CHANGES = [
    load,
    train,
    average,
    step,
    replace,
    change_dtype,
    move_data,
    lambda norm: norm.weight.mul_(2),
    lambda norm: norm.running_mean.add_(1),
    lambda norm: setattr(norm, "eps", 0.1),
    lambda norm: norm.double(),
    lambda norm: norm.to(torch.bfloat16),
]


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_scale_is_right_after_a_change(change, trains):
    norm = frozen().requires_grad_(trains)
    with torch.no_grad():
        before = [t.clone() for t in stored_affine(norm)]
    with torch.set_grad_enabled(change is step):
        change(norm)
    with torch.no_grad():
        after = stored_affine(norm)
        torch.testing.assert_close(after, affine_by_hand(norm), rtol=2e-2, atol=1e-3)
        assert after[0].dtype == norm.weight.dtype
        if change is not change_dtype and after[0].dtype == before[0].dtype:
            assert not torch.equal(after[0], before[0]) or not torch.equal(after[1], before[1])


def test_copies_have_scales_of_their_own():
    norm = frozen()
    launches(norm)
    other = copy.deepcopy(norm)
    assert launches(other) == 5
    pickle.dumps(norm)
    with torch.no_grad():
        other.weight.mul_(2)
        torch.testing.assert_close(stored_affine(norm), affine_by_hand(norm))
        torch.testing.assert_close(stored_affine(other), affine_by_hand(other))


def test_a_scale_in_other_tensors_and_in_compiled_graphs():
    """torch.func's tensors, fake and meta ones are not kept, and a graph computes the scale."""
    norm, x = frozen(), torch.randn(2, 3, 4, 4)
    conv = nn.Conv2d(3, 3, 1, bias=False).requires_grad_(False)
    other = {name: value.clone().float() * 2 for name, value in norm.state_dict().items()}
    with torch.no_grad():
        expected = conv_norm(conv, norm, x)
        stacked = {name: torch.stack([value, value]) for name, value in other.items()}
        torch.func.vmap(lambda state: torch.func.functional_call(Folded(conv, norm), state, (x,)))(
            {f"norm.{name}": value for name, value in stacked.items()}
        )
        with FakeTensorMode(allow_non_fake_inputs=True):
            stored_affine(norm)
        torch.testing.assert_close(conv_norm(conv, norm, x), expected)
        graph = torch.compile(Folded(conv, norm), backend="eager", fullgraph=True)
        torch.testing.assert_close(graph(x), expected)
        norm.weight.data.mul_(2)  # no version tells, but a graph computes anew
        torch.testing.assert_close(graph(x), norm(conv(x)))
    copy.deepcopy(norm).to("meta")(x.to("meta"))


class Folded(nn.Module):
    def __init__(self, conv, norm):
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x):
        return conv_norm(self.conv, self.norm, x)


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


@pytest.mark.parametrize("own_position", ["dropped", "masked"])
def test_a_logit_norm_with_hooks_without_the_own_position(own_position):
    term = SelfAttention(8, 8, num_heads=2, feat_size=(4, 5)).double().eval().binary
    term.own_position, x = own_position, torch.randn(2, 8, 4, 5, dtype=torch.double)
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
