"""The contract of the slot as a test suite, for the operators of this package and for anybody's own.

``check_operator(MyOperator)`` runs everything; a test can also be parametrised with :func:`variants` and
``CHECKS``::

    @pytest.mark.parametrize("variant", variants(MyOperator), ids=str)
    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check, variant):
        check(variant)

Shapes: N images, C = 8 channels in and C' = 16 out, an H×W map.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import EvalBatchNorm2d, SlotOperator
from .layers.registry import find_operator

IN_CHANNELS, OUT_CHANNELS = 8, 16
SIZES = ((6, 6), (5, 7), (1, 3), (1, 1), (9, 4))


@dataclass(frozen=True)
class Variant:
    """An operator with one choice of position type and convolution.

    Attributes:
        operator: the class.
        positions: one of its ``position_types``.
        deformable: whether its 3×3 convolution is deformable.
    """

    operator: type[SlotOperator]
    positions: str
    deformable: bool

    def __str__(self) -> str:
        return f"{self.operator.__name__}-{self.positions}{'-deformable' * self.deformable}"

    def make(self, **options: Any) -> SlotOperator:
        """Build the operator, with norms that do something; ``options`` are arguments of its constructor."""
        options = {"num_heads": 2, "feat_size": 6, **options}
        layer = self.operator(
            IN_CHANNELS, OUT_CHANNELS, positions=self.positions, deformable=self.deformable, **options
        )
        for module in layer.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        return layer


def variants(operator: type[SlotOperator]) -> list[Variant]:
    """Return every choice of position type and convolution that an operator has."""
    choices = itertools.product(operator.position_types, (False, True))
    return [Variant(operator, p, d) for p, d in choices if operator.has_convolution or not d]


def check_operator(operator: type[SlotOperator]) -> None:
    """Run the whole suite on every variant of an operator.

    Raises:
        AssertionError: the operator breaks the contract; names the check and the variant.
        TypeError: it is no operator of the slot.
    """
    for variant, check in itertools.product(variants(find_operator(operator)), CHECKS):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            try:
                check(variant)
            except Exception as error:  # an operator of somebody else may raise anything
                raise AssertionError(
                    f"{variant} fails {check.__name__}: {type(error).__name__}: {error}"
                ) from error


def check_sizes_and_strides(variant: Variant) -> None:
    """Check that any H×W becomes ⌈H/s⌉×⌈W/s⌉ for both strides, with finite values and gradients."""
    for stride, size in itertools.product((1, 2), SIZES):
        layer = variant.make(stride=stride).eval()
        x = torch.randn(2, IN_CHANNELS, *size, requires_grad=True)
        out = layer(x)
        expected = (2, OUT_CHANNELS, -(-size[0] // stride), -(-size[1] // stride))
        assert out.shape == expected, f"expected {expected} of {tuple(x.shape)}, got {tuple(out.shape)}"
        out.square().sum().backward()
        assert torch.isfinite(out).all(), f"values that are not finite at {size}"
        assert x.grad is not None, "no gradient of the input"
        assert torch.isfinite(x.grad).all(), f"gradients that are not finite at {size}"


def check_every_parameter_takes_part(variant: Variant) -> None:
    """Check that every parameter has a gradient, which data parallel training waits for."""
    for training in (False, True):
        layer = variant.make().train(training)
        layer(torch.randn(2, IN_CHANNELS, 6, 6)).square().sum().backward()
        without = [name for name, p in layer.named_parameters() if p.grad is None]
        assert not without, f"parameters without a gradient: {', '.join(without)}"


def check_images_are_independent(variant: Variant) -> None:
    """Check that in eval mode an image's output does not depend on the others of its batch."""
    layer = variant.make().double().eval()
    x = torch.randn(3, IN_CHANNELS, 5, 6, dtype=torch.double)
    torch.testing.assert_close(layer(x), torch.cat([layer(image[None]) for image in x]))


def check_state_dict(variant: Variant) -> None:
    """Check that the state dict holds everything: another operator that loads it computes the same."""
    layer, other = variant.make().eval(), variant.make().eval()
    x = torch.randn(1, IN_CHANNELS, 4, 6)
    assert not torch.equal(layer(x), other(x)), "two fresh operators give the same output"
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(layer(x), other(x)), "the state dict does not hold everything"


def check_stride_is_a_pool(variant: Variant) -> None:
    """Check that stride 2 is an average pool after the operator at the whole resolution."""
    fine, coarse = variant.make().eval(), variant.make(stride=2).eval()
    coarse.load_state_dict(fine.state_dict())
    x = torch.randn(2, IN_CHANNELS, 6, 4)
    # with stored statistics a norm commutes with pooling
    torch.testing.assert_close(coarse(x), F.avg_pool2d(fine(x), 2))


def check_autocast(variant: Variant) -> None:
    """Check that mixed precision is close to float32."""
    layer = variant.make().eval()
    x = torch.randn(1, IN_CHANNELS, 6, 6)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            out = layer(x)
            out.float().sum().backward()
        assert torch.isfinite(out).all(), f"values that are not finite in {dtype}"
        torch.testing.assert_close(out.float(), layer(x), rtol=0.1, atol=0.1)


def check_empty_batch(variant: Variant) -> None:
    """Check that a batch without images passes."""
    layer = variant.make(stride=2).eval()
    shape = layer(torch.randn(0, IN_CHANNELS, 5, 6)).shape
    assert shape == (0, OUT_CHANNELS, 3, 3), f"expected (0, {OUT_CHANNELS}, 3, 3), got {tuple(shape)}"


def check_half_precision_weights(variant: Variant) -> None:
    """Check that weights in bfloat16 run, in both modes."""
    for training in (False, True):
        layer = variant.make().train(training).bfloat16()
        out = layer(torch.randn(1, IN_CHANNELS, 6, 6, dtype=torch.bfloat16))
        assert out.dtype == torch.bfloat16, f"expected bfloat16, got {out.dtype}"
        assert torch.isfinite(out).all(), "values that are not finite"


def check_fast_paths(variant: Variant) -> None:
    """Check outputs, all gradients and buffers of the fast attention against that with every logit in memory."""
    compare_steps(variant, lambda layer, x: layer(x), backend="reference")


def compare_steps(
    variant: Variant, definition: Callable[[Any, Tensor], Tensor], backend: str = "blockwise"
) -> None:
    """Compare steps of the operator with those of a definition: outputs, all gradients, and buffers.

    Args:
        variant: of the operator, which computes with ``backend="blockwise"``.
        definition: called with an operator of equal weights, made for ``backend``, and its input; returns the output.
        backend: see there.
    """
    for mode, size in itertools.product(("train", "eval", "stored"), ((5, 7), (6, 6), (1, 3))):
        options: dict[str, Any] = dict(stride=2, norm=EvalBatchNorm2d if mode == "stored" else nn.BatchNorm2d)
        fast = variant.make(backend="blockwise", **options).double().train(mode != "eval")
        plain = variant.make(backend=backend, **options).double().train(mode != "eval")
        x = torch.randn(3, IN_CHANNELS, *size, dtype=torch.double)
        weight = torch.randn(3, OUT_CHANNELS, *(-(-side // 2) for side in size), dtype=torch.double)
        plain.load_state_dict(fast.state_dict())
        found = _step(fast, lambda layer, x: layer(x), x, weight)
        torch.testing.assert_close(found, _step(plain, definition, x, weight), rtol=1e-8, atol=1e-8)


def _step(
    layer: nn.Module, run: Callable[[Any, Tensor], Tensor], x: Tensor, weight: Tensor
) -> tuple[Tensor, dict, dict]:
    """Return output, all gradients by name, and buffers after one step."""
    x = x.clone().requires_grad_()
    out = run(layer, x)
    (out * weight).sum().backward()
    gradients = {"input": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
    return out.detach(), gradients, dict(layer.named_buffers())


def check_compiles(variant: Variant) -> None:
    """Check that torch.compile makes one graph of it that computes the same."""
    layer = variant.make(num_heads=1, backend="blockwise").eval()
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, IN_CHANNELS, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


def check_bad_arguments(variant: Variant) -> None:
    """Check that wrong arguments fail when the operator is built."""
    for options in ({"stride": 3}, {"num_heads": 3}, {"num_heads": 0}, {"feat_size": 0}):
        try:
            variant.make(**options)
        except ValueError:
            continue
        raise AssertionError(f"{options} is accepted")


CHECKS: list[Callable[[Variant], None]] = [
    check_sizes_and_strides,
    check_every_parameter_takes_part,
    check_images_are_independent,
    check_state_dict,
    check_stride_is_a_pool,
    check_autocast,
    check_empty_batch,
    check_half_precision_weights,
    check_fast_paths,
    check_compiles,
    check_bad_arguments,
]
