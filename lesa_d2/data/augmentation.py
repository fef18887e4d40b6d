"""Augment images in ways that detectron2 does not have."""

from collections.abc import Sequence

import detectron2.data.transforms as T
import numpy as np

from ..errors import ConfigError


class RandomSquareResize(T.Augmentation):
    """Resize both sides to one random number of pixels, uniform in one of several ranges.

    Args:
        ranges: pairs (least, most) in pixels, all equally likely.
    """

    def __init__(self, ranges: Sequence[Sequence[int]]) -> None:
        if not ranges or not all(len(pair) == 2 and 1 < pair[0] <= pair[1] for pair in ranges):
            raise ConfigError(
                f"ranges must hold pairs of pixels [least, most], such as [[512, 1024]], got {ranges}"
            )
        super().__init__()
        self.ranges = ranges

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the resizing of an image (H, W, ...) to a random side."""
        least, most = self.ranges[np.random.randint(len(self.ranges))]
        side = np.random.randint(least, most + 1)
        return T.ResizeTransform(*image.shape[:2], side, side)
