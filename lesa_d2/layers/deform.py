"""Deformable convolution v1 (arXiv 1703.06211) on torchvision's operator, which runs on CPU and CUDA."""

from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from .precision import at_least_float32, no_autocast


class DeformableConv2d(nn.Conv2d):
    """A k×k convolution whose taps move by offsets that a second convolution predicts.

    One offset group, no modulation, as in the released models; the offsets are ordered y0, x0, y1, x1, …
    and start at zero, so that a fresh layer is an ordinary convolution.
    (N, C, H, W) -> (N, C', ⌈H/s⌉, ⌈W/s⌉) for the 3×3 kernels used here; ``norm``, if given, comes last, as in
    detectron2's ``Conv2d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups, bias=bias
        )
        self.offset = nn.Conv2d(
            in_channels, 2 * kernel_size * kernel_size, kernel_size, stride=stride, padding=padding
        )
        nn.init.zeros_(self.offset.weight)
        if self.offset.bias is not None:
            nn.init.zeros_(self.offset.bias)
        self.norm = norm

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, C, H, W) at the moved taps."""
        offset = self.offset(input)
        # The operator wants one dtype for all its arguments, and knows no half precision on the CPU.
        with no_autocast(input):
            wide_input, wide_offset, wide_weight = map(at_least_float32, (input, offset, self.weight))
            bias = None if self.bias is None else self.bias.to(wide_weight.dtype)
            output = deform_conv2d(
                wide_input, wide_offset, wide_weight, bias, stride=self.stride, padding=self.padding
            )
        output = output.to(offset.dtype)
        return output if self.norm is None else self.norm(output)
