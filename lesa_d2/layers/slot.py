"""The slot of a bottleneck: what stands where a ResNet has its 3×3 convolution.

Every operator of the slot has this constructor and maps (N, C, H, W) to (N, C', ⌈H/s⌉, ⌈W/s⌉) for any H×W.
Everything runs at the input resolution; stride 2 is an average pool at the end.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from .binary import BINARY_TERMS, BinaryTerm
from .checkpointing import may_be_repeated, statistics_once
from .exporting import sizes_are_open
from .positions import parse_size
from .unary import UnaryTerm


class SlotOperator(nn.Module, ABC):
    """Base of the operators: checks the arguments, pools, and applies the trailing norm.

    Args:
        in_channels: C, a multiple of num_heads.
        out_channels: C', a multiple of 2·num_heads.
        stride: 1 or 2.
        num_heads: G, also the number of weight groups of the unary term's 3×3.
        feat_size: side, or (H, W), of the maps the position tables are made for; other maps are served by
            interpolated tables.
        positions: "decomposed" (detection) or "flattened" (ImageNet).
        deformable: whether the operator's 3×3 is deformable.
        backend: of :func:`lesa_d2.layers.attention.relative_attention`, which serves decomposed positions.
        norm: makes a batch norm for a number of channels.

    Raises:
        ValueError: an argument outside the above; the message names it.
    """

    position_types: ClassVar[tuple[str, ...]] = ("decomposed", "flattened")
    has_convolution: ClassVar[bool] = True
    has_trailing_norm: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        num_heads: int = 8,
        feat_size: int | tuple[int, int] = 14,
        positions: str = "decomposed",
        deformable: bool = False,
        backend: str = "auto",
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.num_heads = num_heads
        self.feat_size = parse_size(feat_size)
        self.position_type = positions
        self.deformable = deformable
        self.backend = backend
        self._check()
        self.build(norm)
        self.pool = nn.AvgPool2d(2, stride=2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.norm = norm(out_channels) if self.has_trailing_norm else nn.Identity()

    def _check(self) -> None:
        name = type(self).__name__
        if self.stride not in (1, 2):
            raise ValueError(f"{name}: stride must be 1 or 2, got {self.stride}")
        if (
            self.num_heads < 1
            or self.in_channels % self.num_heads
            or self.out_channels % (2 * self.num_heads)
        ):
            raise ValueError(
                f"{name}: in_channels must be a multiple of num_heads and out_channels of 2*num_heads, got "
                f"{self.in_channels}, {self.out_channels} and num_heads={self.num_heads}"
            )
        if self.position_type not in self.position_types:
            raise ValueError(
                f"{name}: positions must be one of {self.position_types}, got {self.position_type!r}"
            )
        if self.deformable and not self.has_convolution:
            raise ValueError(f"{name} has no convolution that could be deformable; leave deformable=False")

    @abstractmethod
    def build(self, norm: Callable[[int], nn.Module]) -> None:
        """Make the operator's own modules."""

    @abstractmethod
    def combine(self, x: Tensor) -> Tensor:
        """Compute the operator before pooling and trailing norm: (N, C, H, W) -> (N, C', H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the operator: (N, C, H, W) -> (N, C', ⌈H/s⌉, ⌈W/s⌉).

        Raises:
            ValueError: ``x`` has another number of axes or channels.
        """
        self._check_maps(x)
        if not may_be_repeated(self):
            return self.norm(self.pool(self.combine(x)))
        with statistics_once(self):
            return self.norm(self.pool(self.combine(x)))

    def _check_maps(self, x: Tensor) -> None:
        if sizes_are_open() or (x.ndim == 4 and x.shape[1] == self.in_channels):
            return
        advice = "; x[None] makes a batch of one map" if x.ndim == 3 else ""
        raise ValueError(
            f"{type(self).__name__}: expected maps (N, C, H, W) with C={self.in_channels}, got {tuple(x.shape)}{advice}"
        )

    def make_unary(self, norm: Callable[[int], nn.Module]) -> UnaryTerm:
        """Make the unary term for this operator's arguments."""
        return UnaryTerm(
            self.in_channels,
            self.out_channels,
            groups=self.num_heads,
            deformable=self.deformable,
            norm=norm,
        )

    def make_binary(self, norm: Callable[[int], nn.Module]) -> BinaryTerm:
        """Make the binary term for this operator's arguments."""
        return BINARY_TERMS[self.position_type](
            self.in_channels,
            self.out_channels,
            num_heads=self.num_heads,
            feat_size=self.feat_size,
            backend=self.backend,
            norm=norm,
        )

    def extra_repr(self) -> str:
        """Return the arguments, for printing."""
        return (
            f"{self.in_channels}, {self.out_channels}, stride={self.stride}, num_heads={self.num_heads}, "
            f"feat_size={self.feat_size}, positions={self.position_type!r}, deformable={self.deformable}"
        )
