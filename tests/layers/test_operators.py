"""One suite for every operator of the slot: same constructor, same contract."""

import itertools

import pytest
import torch
from torch import nn

from lesa_d2.layers import LESA, OPERATORS, AttentionAugmentation, EvalBatchNorm2d, SelfAttention, StaticLESA

VARIANTS = [
    pytest.param(operator, positions, deformable, id=f"{name}-{positions}{'-deformable' * deformable}")
    for name, operator in OPERATORS.items()
    for positions, deformable in itertools.product(operator.position_types, (False, True))
    if operator.has_convolution or not deformable
]
SIZES = [(6, 6), (5, 7), (1, 3), (1, 1), (9, 4)]


def make(operator, positions="decomposed", deformable=False, **options):
    options = {"num_heads": 2, "feat_size": 6, **options}
    layer = operator(8, 16, positions=positions, deformable=deformable, **options)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):  # norms that do something
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return layer


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size_and_both_strides(operator, positions, deformable, stride, size):
    layer = make(operator, positions, deformable, stride=stride).eval()
    x = torch.randn(2, 8, *size, requires_grad=True)
    out = layer(x)
    assert out.shape == (2, 16, -(-size[0] // stride), -(-size[1] // stride))
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_every_parameter_takes_part(operator, positions, deformable, training):
    """Data parallel training waits for the gradient of every parameter."""
    layer = make(operator, positions, deformable).train(training)
    layer(torch.randn(2, 8, 6, 6)).square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
def test_images_of_a_batch_do_not_meet_in_eval(operator, positions, deformable):
    layer = make(operator, positions, deformable).double().eval()
    x = torch.randn(3, 8, 5, 6, dtype=torch.double)
    torch.testing.assert_close(layer(x), torch.cat([layer(image[None]) for image in x]))


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
def test_state_dict_round_trip(operator, positions, deformable):
    layer, other = make(operator, positions, deformable).eval(), make(operator, positions, deformable).eval()
    x = torch.randn(1, 8, 4, 6)
    assert not torch.equal(layer(x), other(x))
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
def test_stride_two_is_an_average_pool_at_the_end(operator, positions, deformable):
    fine = make(operator, positions, deformable).eval()
    coarse = make(operator, positions, deformable, stride=2).eval()
    coarse.load_state_dict(fine.state_dict())
    x = torch.randn(2, 8, 6, 4)
    # with stored statistics a norm commutes with pooling
    torch.testing.assert_close(coarse(x), nn.functional.avg_pool2d(fine(x), 2))


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_close_to_float32(operator, positions, deformable, dtype):
    layer = make(operator, positions, deformable).eval()
    x = torch.randn(1, 8, 6, 6)
    with torch.autocast("cpu", dtype=dtype):
        out = layer(x)
        out.float().sum().backward()
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out.float(), layer(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
def test_empty_batch(operator, positions, deformable):
    layer = make(operator, positions, deformable, stride=2).eval()
    assert layer(torch.randn(0, 8, 5, 6)).shape == (0, 16, 3, 3)


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_half_precision_weights_run(operator, positions, deformable, training):
    layer = make(operator, positions, deformable).train(training).bfloat16()
    out = layer(torch.randn(1, 8, 6, 6, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("operator", [LESA, StaticLESA, SelfAttention])
def test_one_head(operator):
    assert make(operator, num_heads=1).eval()(torch.randn(1, 8, 3, 3)).shape == (1, 16, 3, 3)


def run(layer, x, weight):
    """Output, all gradients by name, and buffers after one step."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * weight).sum().backward()
    gradients = {"input": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
    return out.detach(), gradients, dict(layer.named_buffers())


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
@pytest.mark.parametrize("mode", ["train", "eval", "stored"])
@pytest.mark.parametrize("size", [(5, 7), (6, 6), (1, 3)], ids=str)
def test_fast_paths_are_the_definition(operator, positions, deformable, mode, size):
    """Closed-form moments, folded norms and blockwise attention against logit maps, normalised one by one."""
    norm = EvalBatchNorm2d if mode == "stored" else nn.BatchNorm2d
    options = dict(positions=positions, deformable=deformable, norm=norm, stride=2)
    fast = make(operator, backend="blockwise", **options).double().train(mode != "eval")
    plain = make(operator, backend="reference", **options).double().train(mode != "eval")
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(3, 8, *size, dtype=torch.double)
    weight = torch.randn_like(plain(x))
    plain.load_state_dict(fast.state_dict())
    torch.testing.assert_close(run(fast, x, weight), run(plain, x, weight), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
@pytest.mark.parametrize("operator", [LESA, StaticLESA, SelfAttention])
def test_channels_last_stays_so_and_changes_nothing(operator, backend):
    layer = make(operator, backend=backend).double().eval()
    x = torch.randn(2, 8, 5, 6, dtype=torch.double)
    expected = layer(x)
    out = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("operator", "positions", "deformable"), VARIANTS)
def test_compiles_in_one_graph(operator, positions, deformable):
    layer = make(operator, positions, deformable, num_heads=1, backend="blockwise").eval()
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 8, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


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
