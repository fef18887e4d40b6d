"""Every backend is the definition: output and gradients, any shape, dtype, size of logits, memory order."""

import pytest
import torch
from exactness import (
    assert_equals_definition,
    by_channel,
    make_far_inputs,
    make_inputs,
    rounding_of_logits,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from lesa_d2.layers import LESA
from lesa_d2.layers.attention import (
    BACKENDS,
    Backend,
    attention_without_self,
    blockwise,
    relative_attention,
    self_weights,
)

ON_CPU = [name for name in BACKENDS if name != "fused"]
shapes = st.tuples(*(st.integers(1, top) for top in (3, 8, 9, 9, 6, 6)))
dtypes = st.sampled_from([torch.double, torch.float, torch.float16, torch.bfloat16])


@pytest.fixture(params=["whole", "cut"])
def blocks(request, monkeypatch):
    """Blockwise with all in one block, and cut into small blocks with a rest."""
    if request.param == "cut":
        monkeypatch.setattr(blockwise, "BLOCK_LOGITS", 60)
        monkeypatch.setattr(blockwise, "MIN_BLOCK_ROWS", 5)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("backend", ON_CPU)
@settings(max_examples=40, deadline=None)
@given(shape=shapes, dtype=dtypes, transposed=st.booleans(), seed=st.integers(0, 999))
def test_any_shape_dtype_and_memory_order(backend, shape, dtype, transposed, seed):
    torch.manual_seed(seed)
    inputs = make_inputs(*shape, dtype)
    assert_equals_definition([by_channel(t) for t in inputs] if transposed else inputs, backend)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("capability", "is_base_2"), [("AVX2", True), ("AVX512", False), ("DEFAULT", False)])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_exponentials_to_either_base(monkeypatch, capability, is_base_2, scale):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    inputs = make_inputs(2, 2, 3, 5, 4, 6, torch.float, scale)
    assert (blockwise.Exponentials(inputs[0]).scale > 1) == is_base_2
    tolerance = rounding_of_logits(inputs) if scale > 1 else None
    assert_equals_definition(inputs, "blockwise", relative_attention, tolerance)


LOWEST = torch.finfo(torch.float).min


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize(
    "masked", ["a column", "a row", "both", "all columns", "all rows", "half", "one high"]
)
def test_biases_as_large_as_numbers_are(monkeypatch, capability, masked):
    """The lowest number is a usual mask; a query that has it everywhere sees all positions again."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    inputs = make_inputs(1, 2, 3, 5, 4, 6, torch.float)
    col_bias, row_bias = inputs[3:]
    with torch.no_grad():
        if masked in ("a column", "both"):
            col_bias[..., 1] = LOWEST
        if masked in ("a row", "both"):
            row_bias[..., 0] = LOWEST
        if masked == "all columns":
            col_bias[:, :, 3] = LOWEST
        if masked == "all rows":
            row_bias[:, :, 3] = LOWEST
        if masked == "half":
            col_bias[:, :, 3] = LOWEST / 2
        if masked == "one high":
            col_bias[:, :, 3, 2] = 3e38
    out = relative_attention(*inputs, "blockwise")
    less = [b - b.detach().amax(-1, keepdim=True) for b in (col_bias, row_bias)]  # the same softmax
    expected = relative_attention(*inputs[:3], *less, "reference")
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    grad = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("queries", [1, 7, 50])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("transposed", [False, True])
def test_other_queries_than_keys(backend, queries, scale, transposed):
    inputs = make_inputs(2, 2, 3, 5, 4, 6, torch.float, scale, queries)
    tolerance = rounding_of_logits(inputs) if scale > 1 else None
    assert_equals_definition(
        [by_channel(t) for t in inputs] if transposed else inputs, backend, relative_attention, tolerance
    )


def test_own_positions_need_as_many_queries_as_keys():
    q, k, v, col_bias, row_bias = make_inputs(1, 1, 2, 2, 2, 2, torch.float, queries=3)
    with pytest.raises(ValueError, match="got 3 queries and 4 keys"):
        self_weights(q, k, col_bias, row_bias)
    with pytest.raises(ValueError, match="got 3 queries and 4 keys"):
        attention_without_self(q, k, v, col_bias, row_bias)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("scale", [5.0, 30.0, 100.0])
def test_large_logits(backend, dtype, scale):
    """Logits up to several times ±1e4, for which exp overflows even in float64."""
    inputs = make_inputs(2, 2, 5, 7, 4, 3, dtype, scale)
    assert_equals_definition(inputs, backend, tolerance=rounding_of_logits(inputs))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_logits_far_from_zero(backend, dtype):
    inputs = make_far_inputs(dtype)
    assert_equals_definition(inputs, backend, tolerance=rounding_of_logits(inputs))


@pytest.mark.parametrize("broken", ["output", 0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.double, torch.float, torch.float16, torch.bfloat16, "far"])
def test_a_broken_backend_would_be_caught(dtype, broken):
    """An output 5% off, or one gradient missing, for every dtype and for large logits."""
    inputs = make_far_inputs(torch.float) if dtype == "far" else make_inputs(1, 2, 4, 5, 4, 3, dtype)

    def run(*tensors, backend):
        tensors = [t.detach() + 0 * t if i == broken else t for i, t in enumerate(tensors)]
        return relative_attention(*tensors, backend=backend) * (1.05 if broken == "output" else 1)

    tolerance = rounding_of_logits(inputs) if dtype == "far" else None
    assert_equals_definition(inputs, "blockwise", tolerance=tolerance)
    with pytest.raises(AssertionError):
        assert_equals_definition(inputs, "blockwise", run, tolerance)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("backend", ON_CPU)
def test_one_query_far_out_among_tame_ones(backend):
    """A block in which the cheap shift would do for all queries but one."""
    inputs = make_inputs(1, 2, 6, 6, 4, 3, torch.float)
    with torch.no_grad():
        inputs[0][0, 1, 17] *= 1e4
    assert_equals_definition(inputs, backend, tolerance=rounding_of_logits(inputs))


def test_large_values_times_large_exponentials():
    """exp(27) and 1e30 alone are far from overflow."""
    q = torch.full((1, 1, 36, 3), 3.0)
    v = 1e30 * torch.randn(1, 1, 36, 2)
    out = relative_attention(q, q, v, torch.zeros(1, 1, 36, 6), torch.zeros(1, 1, 36, 6), "blockwise")
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand_as(v), rtol=1e-4, atol=1e25)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("backend", ON_CPU)
def test_excluded_keys(backend):
    """A bias of −inf takes a column or row of keys out."""
    q, k, v, col_bias, row_bias = make_inputs(1, 2, 4, 5, 3, 3, torch.float)
    col_bias, row_bias = col_bias.detach().clone(), row_bias.detach().clone()
    col_bias[..., 2] = row_bias[..., 0] = float("-inf")
    with torch.no_grad():
        v[:, :, 2] = 1e30  # an excluded key weighs nothing, not next to nothing
    kept = torch.tensor([x != 2 and y != 0 for y in range(4) for x in range(5)])
    logits = q @ k.mT + (row_bias.unsqueeze(-1) + col_bias.unsqueeze(-2)).flatten(-2)
    expected = logits[..., kept].softmax(-1) @ v[:, :, kept]
    torch.testing.assert_close(relative_attention(q, k, v, col_bias, row_bias, backend), expected)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(value):
    inputs = [t.detach() for t in make_inputs(1, 1, 4, 5, 3, 3, torch.float)]
    inputs[0][0, 0, 3] = value
    out = relative_attention(*inputs, backend="blockwise")
    assert out[0, 0, 3].isnan().all()
    assert out[0, 0, :3].isfinite().all()


@pytest.mark.parametrize("backend", ["auto", *ON_CPU])
def test_mixed_types_are_widened(backend):
    inputs = make_inputs(1, 2, 3, 4, 3, 3, torch.float)
    inputs[3] = inputs[3].detach().double().requires_grad_()
    assert_equals_definition(inputs, backend, tolerance=1e-5)
    inputs = make_inputs(1, 2, 3, 4, 3, 3, torch.bfloat16)
    inputs[0] = inputs[0].detach().float().requires_grad_()
    assert_equals_definition(inputs, backend)


@pytest.mark.parametrize("backend", ["auto", *ON_CPU])
@pytest.mark.parametrize(
    "change", [lambda t: t.to("meta"), lambda t: t.long(), lambda t: t[0, 0, 0, 0], lambda t: t[..., :0]]
)
@pytest.mark.parametrize("index", [0, 3])
def test_what_does_not_fit_is_one_error(backend, change, index):
    inputs = [t.detach() for t in make_inputs(1, 2, 3, 4, 3, 3, torch.float)]
    if index == 0 and change(inputs[0]).numel() == 0:
        inputs[1] = change(inputs[1])[..., :0, :]
    inputs[index] = change(inputs[index])
    with pytest.raises(ValueError, match=r"relative_attention expects .* floating point .* got q \("):
        relative_attention(*inputs, backend=backend)


@pytest.mark.parametrize("backend", ON_CPU)
def test_empty_batch(backend):
    out = relative_attention(*make_inputs(0, 2, 3, 4, 2, 3, torch.float), backend=backend)
    assert out.shape == (0, 2, 12, 3)
    out.sum().backward()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_blocks_not_results(threads):
    inputs = make_inputs(3, 3, 6, 7, 4, 3, torch.double)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_equals_definition(inputs, "blockwise")
    finally:
        torch.set_num_threads(before)


def test_auto_avoids_maps_of_all_pairs_where_they_are_large():
    def chosen(side, images=1):
        q = torch.empty(images, 8, side**2, 16, device="meta")
        return fastest(q)

    def fastest(q):
        from lesa_d2.layers.attention import fastest_backend

        return fastest_backend(q, q, q, q, q)

    assert chosen(10) is BACKENDS["reference"]
    assert chosen(64) is BACKENDS["blockwise"]
    assert chosen(14, images=128) is BACKENDS["blockwise"]


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    inputs = make_inputs(1, 1, 2, 2, 2, 2, torch.float)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"'fused' cannot run here: .*(Triton is not installed|CUDA).*auto"):
        relative_attention(*inputs, backend="fused")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"'fused' cannot run here: .*auto"):
            LESA(16, 16, num_heads=2, backend="fused")  # rather than in the first forward
    monkeypatch.setitem(BACKENDS, "never", Backend(lambda *_: None, lambda *_: "it is a test"))
    with pytest.raises(ValueError, match="'never' cannot run here: it is a test"):
        relative_attention(*inputs, backend="never")


def test_once_differentiable_and_clear_about_it():
    inputs = make_inputs(1, 1, 3, 3, 2, 2, torch.double)
    (gradient,) = torch.autograd.grad(
        relative_attention(*inputs, backend="blockwise").sum(), inputs[2], create_graph=True
    )
    with pytest.raises(NotImplementedError, match=r"differentiated once.*reference"):
        gradient.sum().backward()
    squared = inputs[2] * inputs[2]
    (gradient,) = torch.autograd.grad(
        relative_attention(*inputs[:2], squared, *inputs[3:], backend="blockwise").sum(),
        inputs[2],
        create_graph=True,
    )
    with pytest.raises(NotImplementedError, match="differentiated once"):
        gradient.square().sum().backward()
    plain = [t.detach() for t in inputs]
    with pytest.raises(NotImplementedError, match="forward mode AD"):
        torch.func.jvp(lambda *t: relative_attention(*t, backend="blockwise"), (*plain,), (*plain,))
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(lambda *t: relative_attention(*t, backend="blockwise"))(*(t[None] for t in plain))


def test_the_operator_keeps_its_contract_with_pytorch():
    inputs = [t[0].detach() for t in make_inputs(1, 2, 5, 4, 3, 2, torch.double)]
    torch.library.opcheck(torch.ops.lesa_d2.blockwise_attention.default, (*inputs,))
    torch.library.opcheck(
        torch.ops.lesa_d2.blockwise_attention.default, (*(t.mT.contiguous().mT for t in inputs),)
    )
