"""The operators that LESA is compared with (paper, Table 6); arguments as in :class:`SlotOperator`.

The release does not have them.  The trailing norm, and the shares of channels of attention augmentation, are our
reconstruction; with them the parameter counts are the paper's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import check_backend
from .inspection import ThinAttention
from .positions import DecomposedPositions
from .precision import at_least_float32, no_autocast
from .slot import SlotOperator
from .unary import conv1x1, conv3x3


class SelfAttention(SlotOperator):
    """The binary term alone, then a trailing norm."""

    has_convolution = False

    def build(self, norm: Callable[[int], nn.Module]) -> None:
        """Make the binary term."""
        self.binary = self.make_binary(norm)

    def combine(self, x: Tensor) -> Tensor:
        """Return the binary term of ``x``: (N, C, H, W) -> (N, C', H, W)."""
        return self.binary(x)


class StaticLESA(SlotOperator):
    """Unary and binary term added without a gate, then a trailing norm."""

    def build(self, norm: Callable[[int], nn.Module]) -> None:
        """Make the two terms."""
        self.unary = self.make_unary(norm)
        self.binary = self.make_binary(norm)

    def combine(self, x: Tensor) -> Tensor:
        """Add the terms of ``x``: (N, C, H, W) -> (N, C', H, W)."""
        return self.unary(x) + self.binary(x)


class AttentionAugmentation(SlotOperator, ThinAttention):
    """Attention-augmented convolution (Bello et al. 2019, arXiv 1904.09925), then a trailing norm.

    A 3×3 convolution to C' − dv channels, concatenated with dv channels of multi-head attention with
    decomposed relative logits.  Shares of C': 0.2 for keys (dk), 0.1 for values (dv), each rounded down to a
    multiple of the number of heads and at least one channel a head.
    """

    position_types = ("decomposed",)
    key_share, value_share = 0.2, 0.1

    def build(self, norm: Callable[[int], nn.Module]) -> None:
        """Make the convolution and the attention beside it."""
        check_backend(self.backend)
        self.key_channels = self._share(self.key_share)
        self.value_channels = self._share(self.value_share)
        self.conv = conv3x3(
            self.in_channels, self.out_channels - self.value_channels, deformable=self.deformable
        )
        self.qkv = conv1x1(self.in_channels, 2 * self.key_channels + self.value_channels)
        self.positions = DecomposedPositions(self.key_channels // self.num_heads, self.feat_size)
        self.project = conv1x1(self.value_channels, self.value_channels)

    @property
    def head_channels(self) -> tuple[int, int]:
        """Return how many channels a head has for keys, and for values."""
        return self.key_channels // self.num_heads, self.value_channels // self.num_heads

    def _share(self, share: float) -> int:
        heads = int(share * self.out_channels) // self.num_heads
        return max(heads, 1) * self.num_heads

    def combine(self, x: Tensor) -> Tensor:
        """Concatenate convolution and attention: (N, C, H, W) -> (N, C', H, W)."""
        return torch.cat([self.conv(x), self.project(self._attend(x))], dim=1)

    def _attend(self, x: Tensor) -> Tensor:
        """Compute the attention: (N, C, H, W) -> (N, dv, H, W)."""
        out = self.attend_thinly(*self.attention_inputs(x))
        return out.to(x.dtype).transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])

    def attention_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return q, divided by the root of its length, k, v and the biases of an input (N, C, H, W)."""
        dims = [self.key_channels, self.key_channels, self.value_channels]
        q, k, v = (
            t.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)
            for t in self.qkv(x).split(dims, dim=1)
        )
        with no_autocast(q):
            q = at_least_float32(q) * q.shape[-1] ** -0.5
            col_bias, row_bias = self.positions(q, (x.shape[2], x.shape[3]))
        return q, k, v, col_bias, row_bias
