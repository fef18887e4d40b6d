"""How closely a backend must follow the definition; shared by the tests of all backends."""

import torch

from lesa_d2.layers.attention import relative_attention

# Largest error over the largest number expected: sums of products rounded in this type.
TOLERANCE = {torch.double: 1e-12, torch.float: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def make_inputs(images, heads, height, width, key_dim, value_dim, dtype, scale=1.0, queries=None):
    """q, k, v, col_bias, row_bias whose logits reach about ``scale``² and more; queries as many as keys by default."""
    keys = (images, heads, height * width)
    lead = (images, heads, queries or height * width)
    q, k = (scale * torch.randn(*places, key_dim) for places in (lead, keys))
    col_bias, row_bias = (scale**2 * torch.randn(*lead, side) for side in (width, height))
    tensors = (q, k, torch.randn(*keys, value_dim), col_bias, row_bias)
    return [t.to(dtype).requires_grad_() for t in tensors]


def make_far_inputs(dtype, size=1e4):
    """Logits near ±``size`` that differ within a query by a few: weights and gradients are not trivial."""
    inputs = make_inputs(2, 2, 5, 7, 4, 3, torch.double)
    with torch.no_grad():
        inputs[3] += size * torch.randn(2, 2, 35, 1).sign()
    return [t.detach().to(dtype).requires_grad_() for t in inputs]


def rounding_of_logits(inputs):
    """What the type's rounding of these inputs' logits lets one expect, relative to the largest number."""
    q, k, _, col_bias, row_bias = inputs
    largest = (q.abs() @ k.abs().mT).max() + col_bias.abs().max() + row_bias.abs().max()
    return 4 * torch.finfo(q.dtype).eps * float(largest)


def by_channel(t):
    """The same values with the last two axes exchanged in memory, as a convolution's output has them."""
    return t.detach().mT.contiguous().mT.requires_grad_()


def assert_equals_definition(inputs, backend, run=relative_attention, tolerance=None):
    """Output and all five gradients against the definition in float64."""
    exact = [t.detach().double().requires_grad_() for t in inputs]
    out, expected = run(*inputs, backend=backend), relative_attention(*exact, backend="reference")
    assert out.dtype == inputs[2].dtype
    assert out.shape == expected.shape
    weight = torch.randn_like(expected).to(out.dtype)
    gradients = torch.autograd.grad((out * weight).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), exact)
    tolerance = tolerance or TOLERANCE[out.dtype]
    assert_near(out, expected, tolerance, "output")
    # A single key has all the weight: its logit's gradient is zero, and what is found rounding.
    unit = exact[2].abs().max() * weight.abs().max().double() * max(1, exact[1].abs().max())
    for name, got, wanted in zip(
        ("q", "k", "v", "col_bias", "row_bias"), gradients, expected_gradients, strict=True
    ):
        assert_near(got, wanted, tolerance, name, unit=0.05 * unit if name != "v" else 0.0)


def assert_near(got, expected, tolerance, name, unit=0.0):
    """Within ``tolerance`` of the largest number expected, or of ``unit`` where that is larger."""
    assert got.isfinite().all(), name
    size = max(float(expected.abs().max()), float(unit))
    torch.testing.assert_close(
        got.double(), expected, rtol=0, atol=tolerance * size, msg=lambda m: f"{name}: {m}"
    )
