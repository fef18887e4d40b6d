"""The exported part of a detector: from RGB images to the maps of the feature pyramid.

Shapes: N images, H×W pixels; H and W are multiples of ``divisor``.
"""

import copy

from detectron2.modeling import FPN
from torch import Tensor, nn

from ...errors import ExportError


class FeaturePyramid(nn.Module):
    """Compute normalisation, backbone and FPN of a detector, in evaluation mode on the CPU.

    Args:
        model: a detector, which is copied and not changed.

    Raises:
        ExportError: the model is not a detector with a feature pyramid.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, FPN):
            raise ExportError(
                f"expected a detector whose backbone ends in an FPN, got {type(model).__name__} with "
                f"{type(backbone).__name__}; give the config of such a detector"
            )
        self.backbone = copy.deepcopy(backbone)
        self.is_bgr = getattr(model, "input_format", "RGB") == "BGR"
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, getattr(model, name).detach().clone())
        self.eval().cpu()

    @property
    def strides(self) -> dict[str, int]:
        """Return the stride of every output by name."""
        return {name: shape.stride for name, shape in self.backbone.output_shape().items()}

    @property
    def divisor(self) -> int:
        """Return the number that H and W have to be multiples of."""
        return self.backbone.size_divisibility

    @property
    def smallest_side(self) -> int:
        """Return the least H and W: torch.export would treat a map of a single position as a separate case."""
        return (max(self.strides.values()) // self.divisor + 1) * self.divisor

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the maps of the pyramid.

        Args:
            image: (N, 3, H, W), RGB values from 0 to 255, of any type.

        Returns:
            p2 … p6 by name, (N, C, H/4, W/4) … (N, C, ⌈H/64⌉, ⌈W/64⌉).
        """
        image = image.to(self.pixel_mean.dtype)
        if self.is_bgr:
            image = image.flip(1)
        return self.backbone((image - self.pixel_mean) / self.pixel_std)
