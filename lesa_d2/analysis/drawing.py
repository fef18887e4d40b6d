"""Detections drawn by detectron2's Visualizer, every class in a colour of its own that stays."""

from collections.abc import Sequence

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import ColorMode, Visualizer

LEAST_WIDTH = 320  # pixels that a picture is drawn at, so that labels of small images can be read
LEAST_SIDE = 3  # pixels; Visualizer refuses thinner masks


class ClassVisualizer(Visualizer):
    """Visualizer without random changes of colours: truth, prediction and the next frame look alike.

    Args:
        image: (H, W, 3) uint8, RGB.
        class_names: by class index.
        width: pixels to draw it at; None is its own, or ``LEAST_WIDTH`` if that is more.
    """

    def __init__(self, image: np.ndarray, class_names: Sequence[str], width: int | None = None) -> None:
        metadata = Metadata(thing_classes=list(class_names), thing_colors=class_colours(len(class_names)))
        scale = (width or max(LEAST_WIDTH, image.shape[1])) / image.shape[1]
        super().__init__(image, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION)

    def _jitter(self, color: tuple[float, float, float]) -> tuple[float, float, float]:
        return color


def class_colours(number: int) -> list[tuple[int, int, int]]:
    """RGB, 0 to 255, of each class; they repeat after 74."""
    palette = colormap(rgb=True, maximum=255)
    return [tuple(palette[index % 74].tolist()) for index in range(number)]


def named_classes(class_names: Sequence[str], *detections: Instances) -> list[str]:
    """``class_names`` with numbers for classes of the detections that have no name."""
    most = max((int(d.pred_classes.max()) + 1 for d in detections if len(d)), default=0)
    return [*class_names, *(f"class {index}" for index in range(len(class_names), most))]


def draw_detections(image: np.ndarray, detections: Instances, class_names: Sequence[str]) -> np.ndarray:
    """Boxes, masks, classes and scores on an image.

    Args:
        image: (H, W, 3) uint8, BGR.
        detections: of detectron2, in the image's pixels, on the CPU.
        class_names: by class index; classes without a name are numbered.

    Returns:
        (h, w, 3) uint8, BGR: the image's size, or ``LEAST_WIDTH`` pixels wide where that is more.
    """
    names = named_classes(class_names, detections)
    if min(image.shape[:2]) < LEAST_SIDE and detections.has("pred_masks"):
        detections = detections[:]  # the caller's keep their masks
        detections.remove("pred_masks")
    drawn = ClassVisualizer(image[:, :, ::-1], names).draw_instance_predictions(detections)
    return np.ascontiguousarray(drawn.get_image()[:, :, ::-1])
