"""The unary term of LESA, m of eq. 6: the contribution of a position and its 3×3 neighbourhood.

    unary = BN( W1x1( conv3x3(x, groups=G) ) )            the BN is the released code's; eq. 6 prints none

The 3×3 may be deformable, with one set of offsets for all G weight groups.
"""

from collections.abc import Callable

from torch import Tensor, nn

from .deform import DeformableConv2d
from .folding import conv_norm


def conv3x3(
    in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1, deformable: bool = False
) -> nn.Conv2d:
    """Make a 3×3 convolution without bias, Kaiming normal (fan-out), ordinary or deformable."""
    conv_class = DeformableConv2d if deformable else nn.Conv2d
    conv = conv_class(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Make a 1×1 convolution without bias, Kaiming normal (fan-out)."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class UnaryTerm(nn.Module):
    """The unary term, (N, C, H, W) -> (N, C', H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int = 8,
        deformable: bool = False,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels, groups=groups, deformable=deformable)
        self.project = conv1x1(out_channels, out_channels)
        self.norm = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the unary term: (N, C, H, W) -> (N, C', H, W)."""
        return conv_norm(self.project, self.norm, self.conv(x))
