"""How closely a backend must follow the definition; shared by the tests of all backends."""

import torch

from lesa_d2.layers.attention import relative_attention

# Relative error of one operation of the type that logits and weights are computed in, times a few such.
ROUNDING = {torch.double: 5e-16, torch.float: 2.5e-7, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def make_inputs(images, heads, height, width, key_dim, value_dim, dtype, scale=1.0):
    """q, k, v, col_bias, row_bias whose logits reach about ``scale``² and more."""
    places = height * width
    lead = (images, heads, places)
    q, k = (scale * torch.randn(*lead, key_dim) for _ in range(2))
    col_bias, row_bias = (scale**2 * torch.randn(*lead, side) for side in (width, height))
    tensors = (q, k, torch.randn(*lead, value_dim), col_bias, row_bias)
    return [t.to(dtype).requires_grad_() for t in tensors]


def by_channel(t):
    """The same values with the last two axes exchanged in memory, as a convolution's output has them."""
    return t.detach().mT.contiguous().mT.requires_grad_()


def assert_equals_definition(inputs, backend, run=relative_attention):
    """Output and all five gradients against the definition in float64."""
    exact = [t.detach().double().requires_grad_() for t in inputs]
    out, expected = run(*inputs, backend=backend), relative_attention(*exact, backend="reference")
    assert out.dtype == inputs[2].dtype
    assert out.shape == expected.shape
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((out * weight.to(out.dtype)).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weight.to(out.dtype)).sum(), exact)

    q, k, v, col_bias, row_bias = (t.abs().max().item() if t.numel() else 0.0 for t in exact)
    logits = q * k * exact[0].shape[-1] + col_bias + row_bias
    tolerance = ROUNDING[out.dtype] * (1 + (logits if out.dtype in (torch.float, torch.double) else 0))
    value = 1 + v * (1 + weight.abs().max().item() if weight.numel() else 1)
    sizes = [k * value, q * value, value, value, value]
    _assert_near(out, expected, tolerance * value, "output")
    names = ("q", "k", "v", "col_bias", "row_bias")
    for name, got, wanted, size in zip(names, gradients, expected_gradients, sizes, strict=True):
        places = max(1, exact[0].shape[2]) ** 0.5  # sums over keys or queries
        _assert_near(got, wanted, tolerance * (1 + size) * places, name)


def _assert_near(got, expected, tolerance, name):
    assert got.isfinite().all(), name
    torch.testing.assert_close(
        got.double(), expected, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}"
    )
