"""From a forward and a recomputing backward to a differentiable operator.

The pair is registered with PyTorch as one opaque operator: ``torch.compile`` and ``torch.export`` pass over
it without looking inside, and autograd keeps the inputs, the output and one number a query.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..precision import no_autocast

Tensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Forward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Backward = Callable[[Tensor, Tensors, Tensor, Tensor], Tensors]


def empty_like_heads(v: Tensor, queries: int) -> Tensor:
    """Allocate (B, m, dv), in memory position by position or, where ``v`` (B, n, dv) is so, channel by channel."""
    by_channel = min(v.shape[1:]) > 1 and v.stride(1) < v.stride(2)
    maps, _, channels = v.shape
    if by_channel:
        return v.new_empty((maps, channels, queries)).mT
    return v.new_empty((maps, queries, channels))


def empty_by_query(row_bias: Tensor) -> Tensor:
    """Allocate (B, m, H) whose neighbouring queries are neighbours in memory, as the kernels read row biases."""
    return row_bias.new_empty((row_bias.shape[0], row_bias.shape[2], row_bias.shape[1])).mT


class NotTwice(torch.autograd.Function):
    """Pass five gradients on, the last arguments; it is an error to differentiate them."""

    @staticmethod
    def forward(*tensors: Tensor) -> Tensors:
        """Return the last five tensors."""
        q, k, v, col_bias, row_bias = (t.clone() for t in tensors[-5:])
        return q, k, v, col_bias, row_bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensors) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        """Refuse second derivatives.

        Raises:
            NotImplementedError: on every call, as the recomputing backward has no derivative.
        """
        raise NotImplementedError(
            "this attention can be differentiated once; for second derivatives use backend='reference'"
        )


def recomputing_attention(name: str, forward: Forward, backward: Backward) -> Callable[..., Tensor]:
    """Make an attention function of (B, m, ·) and (B, n, ·) tensors of any strides, B = N·G, differentiable.

    Args:
        name: of the operator, ``lesa_d2::{name}_attention``.
        forward: q, k, v, col_bias, row_bias -> output (B, m, dv) and log-sum-exp of the logits (B, m, 1).
        backward: output gradient, the five inputs, output and log-sum-exp -> the inputs' five gradients.

    Returns:
        (N, G, m, ·) and (N, G, n, ·) inputs -> (N, G, m, dv).  It can be differentiated once, and not in forward mode.
    """

    @torch.library.custom_op(f"lesa_d2::{name}_attention", mutates_args=())
    def attention(
        q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        return forward(q, k, v, col_bias, row_bias)

    @attention.register_fake
    def _(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(col_bias.dtype, torch.float32)
        return empty_like_heads(v, q.shape[1]), col_bias.new_empty((*col_bias.shape[:2], 1), dtype=wide)

    @torch.library.custom_op(f"lesa_d2::{name}_attention_backward", mutates_args=())
    def gradients(
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        col_bias: Tensor,
        row_bias: Tensor,
        out: Tensor,
        logsumexp: Tensor,
    ) -> Tensors:
        with no_autocast(q):  # whoever calls backward() within autocast
            return backward(grad, (q, k, v, col_bias, row_bias), out, logsumexp)

    @gradients.register_fake
    def _(grad: Tensor, *saved: Tensor) -> Tensors:
        q, k, v, col_bias, _ = (t.new_empty(t.shape) for t in saved[:5])
        return q, k, v, col_bias, empty_by_query(saved[4])

    forward_op = getattr(torch.ops.lesa_d2, f"{name}_attention").default
    backward_op = getattr(torch.ops.lesa_d2, f"{name}_attention_backward").default

    class Attention(torch.autograd.Function):
        """Its own class rather than an autograd formula of the operator: that would ignore forward mode."""

        @staticmethod
        def forward(
            q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor
        ) -> tuple[Tensor, Tensor]:
            return forward_op(q, k, v, col_bias, row_bias)

        @staticmethod
        def setup_context(ctx: Any, inputs: Tensors, output: tuple[Tensor, Tensor]) -> None:
            ctx.save_for_backward(*inputs, *output)
            ctx.mark_non_differentiable(output[1])

        @staticmethod
        def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensors:
            saved = ctx.saved_tensors
            with torch.no_grad():
                gradients = backward_op(grad, *saved)
            # Ordinary backward passes run without gradients, unless they are to be differentiated themselves.
            return NotTwice.apply(grad, *saved[:5], *gradients) if torch.is_grad_enabled() else gradients

    def run(q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
        lead = v.shape[:2]
        flat = (t.flatten(0, 1) for t in (q, k, v, col_bias, row_bias))
        return Attention.apply(*flat)[0].unflatten(0, lead)

    return run
