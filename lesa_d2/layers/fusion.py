"""The gate of LESA, eq. 7: how much of the binary term each position and channel takes.

    gate = sigmoid( BN( fc2( ReLU( BN( fc1( ReLU( [unary, binary] ))))))      fc1: 2C -> C, fc2: C -> C

The first BN of eq. 7's pre-activation is that of the two branches, so that the gate starts with the ReLU.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unary import conv1x1


class Gate(nn.Module):
    """unary, binary (N, C, H, W) -> gate in (0, 1) of the same shape."""

    def __init__(self, channels: int, *, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.fc1 = conv1x1(2 * channels, channels)
        self.norm1 = norm(channels)
        self.fc2 = conv1x1(channels, channels)
        self.norm2 = norm(channels)

    def forward(self, unary: Tensor, binary: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.fc1(F.relu(torch.cat([unary, binary], dim=1)))))
        return torch.sigmoid(self.norm2(self.fc2(hidden)))
