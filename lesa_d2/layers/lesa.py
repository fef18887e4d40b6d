"""LESA: convolution and all-to-all attention, fused by a learned gate (arXiv 2107.05637, eq. 5).

    out = unary + gate * binary            gate in (0, 1), one value a position and channel

The bottleneck applies its ReLU right after: LESA has no trailing norm, its terms have theirs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .fusion import Gate
from .slot import SlotOperator


class LESA(SlotOperator):
    """The operator, (N, C, H, W) -> (N, C', ⌈H/s⌉, ⌈W/s⌉); arguments as in :class:`SlotOperator`."""

    has_trailing_norm = False

    def build(self, norm: Callable[[int], nn.Module]) -> None:
        """Make the two terms and the gate."""
        self.unary = self.make_unary(norm)
        self.binary = self.make_binary(norm)
        self.gate = Gate(self.out_channels, norm=norm)

    def combine(self, x: Tensor) -> Tensor:
        """Return unary + gate · binary: (N, C, H, W) -> (N, C', H, W)."""
        unary, binary = self.unary(x), self.binary(x)
        return torch.addcmul(unary, self.gate(unary, binary), binary)
