"""The contract of the slot for every operator of the package, and what each promises beyond it."""

import pytest
import torch
from torch import nn

from lesa_d2.layers import LESA, OPERATORS, AttentionAugmentation, EvalBatchNorm2d, SelfAttention, StaticLESA
from lesa_d2.testing import CHECKS, Variant, check_operator, variants

VARIANTS = [variant for operator in OPERATORS.values() for variant in variants(operator)]


def make(operator, positions="decomposed", deformable=False, **options):
    return Variant(operator, positions, deformable).make(**options)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, variant):
    check(variant)


class Forgetful(StaticLESA):
    """Drops a column of wide maps."""

    def combine(self, x):
        return super().combine(x)[..., :-1] if x.shape[-1] > 5 else super().combine(x)


def test_the_suite_names_what_an_operator_of_ones_own_breaks():
    with pytest.raises(
        AssertionError, match=r"Forgetful-decomposed fails check_sizes_and_strides: .*expected \(2"
    ):
        check_operator(Forgetful)


@pytest.mark.parametrize("operator", [LESA, StaticLESA, SelfAttention])
def test_one_head(operator):
    assert make(operator, num_heads=1).eval()(torch.randn(1, 8, 3, 3)).shape == (1, 16, 3, 3)


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
@pytest.mark.parametrize("operator", [LESA, StaticLESA, SelfAttention])
def test_channels_last_stays_so_and_changes_nothing(operator, backend):
    layer = make(operator, backend=backend).double().eval()
    x = torch.randn(2, 8, 5, 6, dtype=torch.double)
    expected = layer(x)
    out = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_running_statistics_move_once_a_step():
    layer = make(LESA).train()
    layer(torch.randn(2, 8, 6, 6))
    counts = [m.num_batches_tracked.item() for m in layer.modules() if isinstance(m, nn.BatchNorm2d)]
    assert counts == [1] * len(counts)


def test_eval_norm_keeps_statistics_and_trains_the_affine_part():
    layer = make(LESA, norm=EvalBatchNorm2d).train()
    before = {name: value.clone() for name, value in layer.named_buffers()}
    x = torch.randn(2, 8, 6, 6)
    out = layer(x)
    out.square().sum().backward()
    torch.testing.assert_close(dict(layer.named_buffers()), before)
    assert layer.unary.norm.weight.grad.abs().sum() > 0
    torch.testing.assert_close(out, layer.eval()(x))


def test_gate_lies_between_zero_and_one_and_mixes():
    layer = make(LESA).eval()
    x = torch.randn(1, 8, 6, 6)
    unary, binary = layer.unary(x), layer.binary(x)
    gate = layer.gate(unary, binary)
    assert 0 < gate.min() < gate.max() < 1
    torch.testing.assert_close(layer(x), unary + gate * binary)


def test_fresh_deformable_unary_is_the_ordinary_one():
    plain, deformable = make(LESA).eval(), make(LESA, deformable=True).eval()
    deformable.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(deformable(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "dk", "dv"), [(256, 48, 24), (512, 96, 48), (64, 8, 8)])
def test_attention_augmentation_shares(channels, dk, dv):
    layer = AttentionAugmentation(channels, channels, feat_size=7)
    assert (layer.key_channels, layer.value_channels) == (dk, dv)


@pytest.mark.parametrize("operator", OPERATORS.values())
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 3}, "stride must be 1 or 2, got 3"),
        ({"num_heads": 3}, "multiple of"),
        ({"num_heads": 0}, "multiple of"),
        ({"positions": "absolute"}, "positions must be one of"),
        ({"feat_size": 0}, "a size must be"),
        ({"backend": "fast"}, "unknown attention backend"),
    ],
)
def test_bad_arguments_fail_at_construction(operator, options, message):
    with pytest.raises(ValueError, match=message):
        make(operator, **options)


def test_nothing_to_deform_is_an_error():
    with pytest.raises(ValueError, match="no convolution"):
        make(SelfAttention, deformable=True)


def test_flattened_augmentation_is_an_error():
    with pytest.raises(ValueError, match="positions must be one of"):
        make(AttentionAugmentation, positions="flattened")


def test_a_norm_that_does_not_fold_is_an_error():
    with pytest.raises(TypeError, match="the logits need a batch norm"):
        make(LESA, norm=lambda channels: nn.GroupNorm(1, channels))


@pytest.mark.parametrize("operator", [*OPERATORS.values()])
@pytest.mark.parametrize("shape", [(8, 6, 5), (1, 9, 6, 5), (8,)])
def test_maps_of_another_shape(operator, shape):
    advice = r"; x\[None\] makes a batch of one map" if len(shape) == 3 else ""
    with pytest.raises(
        ValueError, match=rf"expected maps \(N, C, H, W\) with C=8, got \({shape[0]},.*{advice}$"
    ):
        make(operator)(torch.randn(shape))
