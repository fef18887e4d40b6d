"""detectron2's vision transformers with our attention against themselves."""

import copy

import pytest
import torch
from detectron2.modeling.backbone import mvit, vit
from torch import nn

from lesa_d2.errors import LesaError
from lesa_d2.layers.attention import BACKENDS
from lesa_d2.modeling import use_exact_attention

ON_CPU = [name for name in BACKENDS if name != "fused"]
SMALL = {"embed_dim": 16, "depth": 3, "drop_path_rate": 0.0, "out_feature": "out"}


def busy(model):
    """Relative positions start at zero, where nothing depends on them."""
    for name, parameter in model.named_parameters():
        if "rel_pos" in name:
            nn.init.normal_(parameter, std=0.5)
    return model


def make_attention(rel_pos=True):
    return busy(vit.Attention(16, num_heads=2, use_rel_pos=rel_pos, input_size=(6, 5)))


def make_pooled(**options):
    options = {"stride_q": 1, "stride_kv": 2, "use_rel_pos": True, "input_size": (6, 6), **options}
    return busy(mvit.MultiScaleAttention(8, 16, num_heads=2, **options))


def make_vit():
    return busy(
        vit.ViT(
            img_size=64,
            patch_size=8,
            num_heads=2,
            window_size=3,
            window_block_indexes=[0, 2],
            use_rel_pos=True,
            residual_block_indexes=[],
            **SMALL,
        )
    )


def make_mvit():
    return busy(
        mvit.MViT(
            img_size=64,
            embed_dim=8,
            depth=3,
            num_heads=1,
            last_block_indexes=(0, 1, 2),
            qkv_pool_kernel=(3, 3),
            adaptive_kv_stride=2,
            adaptive_window_size=8,
            drop_path_rate=0.0,
            out_features=("scale2", "scale3", "scale4"),
        )
    )


def outputs(model, x):
    out = model(x)
    return list(out.values()) if isinstance(out, dict) else [out]


def gradients(model, x):
    outs = outputs(model, x)
    torch.manual_seed(1)
    loss = sum((out * torch.randn_like(out)).sum() for out in outs)
    return outs, torch.autograd.grad(loss, [x, *model.parameters()], allow_unused=True)


CASES = {
    "vit": (make_attention, (2, 6, 5, 16)),
    "vit, another size": (make_attention, (1, 7, 9, 16)),
    "vit, no positions": (lambda: make_attention(False), (2, 4, 3, 16)),
    "mvit, pooled keys": (make_pooled, (2, 6, 6, 8)),
    "mvit, odd size": (make_pooled, (1, 5, 9, 8)),
    "mvit, pooled queries": (lambda: make_pooled(stride_q=2, stride_kv=1), (2, 6, 6, 8)),
    "ViT": (make_vit, (1, 3, 64, 64)),
    "MViT": (make_mvit, (1, 3, 64, 64)),
}


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_stay(case, backend):
    torch.manual_seed(0)
    make, shape = CASES[case]
    model = make().double()
    ours = use_exact_attention(copy.deepcopy(model), backend)
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    expected, received = gradients(model, x), gradients(ours, x)
    torch.testing.assert_close(received, expected, rtol=1e-5, atol=1e-8)
    assert ours.state_dict().keys() == model.state_dict().keys()


def test_float32_and_mixed_precision():
    torch.manual_seed(0)
    model, x = make_attention(), torch.randn(2, 6, 5, 16)
    ours = use_exact_attention(copy.deepcopy(model))
    torch.testing.assert_close(ours(x), model(x), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x), model(x), rtol=0.05, atol=0.05)


def test_windows_stay_as_they_are():
    model = use_exact_attention(make_vit())
    assert [type(block.attn).__name__ for block in model.blocks] == [
        "Attention",
        "ExactAttention",
        "Attention",
    ]
    assert use_exact_attention(model) is model  # again


def test_errors():
    with pytest.raises(LesaError, match="got Linear without any"):
        use_exact_attention(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="unknown attention backend 'x'"):
        use_exact_attention(make_vit(), "x")


def test_somebodys_own_class_stays_as_it_is():
    class Mine(vit.Attention):
        def forward(self, x):
            return 2 * super().forward(x) + 1

    model, x = nn.Sequential(Mine(16, num_heads=2), make_attention()), torch.randn(1, 4, 4, 16)
    expected = model(x)
    use_exact_attention(model)
    assert [type(module).__name__ for module in model] == ["Mine", "ExactAttention"]
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
