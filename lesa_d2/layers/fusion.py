"""The gate of LESA, eq. 7: how much of the binary term each position and channel takes.

    gate = sigmoid( BN( fc2( ReLU( BN( fc1( ReLU( [unary, binary] ))))))      fc1: 2C -> C, fc2: C -> C

Eq. 7 begins with a BN.  In the released code that is the norm at the end of each of the two terms, so that the gate
starts with the ReLU.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .folding import conv_norm
from .unary import conv1x1


class Gate(nn.Module):
    """The gate: two terms (N, C, H, W) -> (N, C, H, W) in (0, 1)."""

    def __init__(self, channels: int, *, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.fc1 = conv1x1(2 * channels, channels)
        self.norm1 = norm(channels)
        self.fc2 = conv1x1(channels, channels)
        self.norm2 = norm(channels)

    def forward(self, unary: Tensor, binary: Tensor) -> Tensor:
        """Compute the gate of the two terms, (N, C, H, W) each."""
        # In place wherever autograd does not need what is overwritten: maps are large, passes over them slow.
        branches = torch.cat([unary, binary], dim=1).relu_()
        hidden = conv_norm(self.fc1, self.norm1, branches).relu_()
        return conv_norm(self.fc2, self.norm2, hidden).sigmoid_()
