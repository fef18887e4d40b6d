"""Contact sheets of predictions beside the truth, drawn by detectron2's Visualizer."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import ColorMode, Visualizer
from torch import nn

GAP = 6  # white pixels between tiles
TILE_WIDTH = 320  # pixels that a picture is drawn at, so that labels of small images can be read
PHOTO_WIDTH = 420  # of pictures with many objects
CAPTION = 20  # pixels of height
_FONT = (cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)  # face, scale, thickness


@torch.no_grad()
def draw_predictions(
    model: nn.Module,
    loader: Iterable[list[dict]],
    dataset_name: str,
    file: str | Path,
    *,
    num_images: int = 12,
    columns: int = 4,
    score_threshold: float = 0.5,
) -> Path:
    """Write a sheet of the first images of ``loader``: truth above, predictions below.

    Args:
        model: a detector; evaluated in eval mode, its mode restored.
        loader: batches of mapped dicts with ``file_name`` and ``image_id``.
        dataset_name: registered name, for annotations and class names.
        file: the PNG to write; its folder is made.
        num_images, columns: size of the sheet.
        score_threshold: predictions below it are left out of the picture.
    """
    truth = {record["image_id"]: record for record in DatasetCatalog.get(dataset_name)}
    metadata = _with_class_colours(MetadataCatalog.get(dataset_name))
    was_training = model.training
    model.eval()
    tiles = []
    for inputs, output in _first(model, loader, num_images):
        image = utils.read_image(inputs["file_name"], format="RGB")
        instances = output["instances"].to("cpu")
        kept = instances[instances.scores >= score_threshold]
        objects = {"annotations": truth[inputs["image_id"]].get("annotations", [])}  # no stuff map
        above = _canvas(image, metadata).draw_dataset_dict(objects)
        below = _canvas(image, metadata).draw_instance_predictions(kept)
        tiles.append(_stack([above.get_image(), below.get_image()], axis=0))
    model.train(was_training)
    rows = [_stack(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), _stack(rows, axis=0)[:, :, ::-1])
    return file


def _first(model: nn.Module, loader: Iterable[list[dict]], number: int) -> Iterable[tuple[dict, dict]]:
    for batch in loader:
        yield from list(zip(batch, model(batch), strict=True))[:number]
        number -= len(batch)
        if number <= 0:
            return


def _with_class_colours(metadata: Metadata) -> Metadata:
    """The classes of ``metadata`` with a colour each, the same for truth and predictions."""
    classes = metadata.thing_classes
    colours = [tuple(colormap(rgb=True, maximum=255)[index % 74].tolist()) for index in range(len(classes))]
    return Metadata(thing_classes=classes, thing_colors=colours)


class _Canvas(Visualizer):
    def _jitter(self, color: tuple[float, ...]) -> tuple[float, ...]:
        return color  # detectron2 varies it from object to object, so that classes look alike


def _canvas(image: np.ndarray, metadata: Metadata, width: int = TILE_WIDTH) -> Visualizer:
    scale = width / image.shape[1]
    return _Canvas(image, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION)


def _stack(images: list[np.ndarray], axis: int) -> np.ndarray:
    """Side by side (axis 1) or one below the other (axis 0), padded with white to a common size."""
    other = 1 - axis
    size = max(image.shape[other] for image in images)
    padded = []
    for image in images:
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (0, GAP)
        pad[other] = (0, size - image.shape[other])
        padded.append(np.pad(image, pad, constant_values=255))
    return np.concatenate(padded, axis=axis)


def draw_truth(record: dict, metadata: Metadata) -> np.ndarray:
    """A dataset dict's picture with its objects, (H, W, 3) RGB.

    Args:
        record: with ``file_name`` and, where there are objects, ``annotations``.
        metadata: classes and colours, of :func:`class_colours`.
    """
    canvas = _canvas(utils.read_image(record["file_name"], format="RGB"), metadata, PHOTO_WIDTH)
    return canvas.draw_dataset_dict({"annotations": record.get("annotations", [])}).get_image()


def draw_detections(record: dict, detections: Instances, metadata: Metadata) -> np.ndarray:
    """A dataset dict's picture with detections (on the CPU), (H, W, 3) RGB."""
    canvas = _canvas(utils.read_image(record["file_name"], format="RGB"), metadata, PHOTO_WIDTH)
    classes, scores = detections.pred_classes.tolist(), detections.scores.tolist()
    return canvas.overlay_instances(  # draw_instance_predictions hides what is below its masks
        boxes=detections.pred_boxes,
        masks=detections.pred_masks.numpy() if detections.has("pred_masks") else None,
        labels=[f"{metadata.thing_classes[k]} {score:.0%}" for k, score in zip(classes, scores, strict=True)],
        assigned_colors=[tuple(c / 255 for c in metadata.thing_colors[k]) for k in classes],
    ).get_image()


def class_colours(dataset_name: str) -> Metadata:
    """The classes of a registered data set with a colour each, the same in every picture."""
    return _with_class_colours(MetadataCatalog.get(dataset_name))


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """``image`` below a white line with ``text``, which is cut to its width."""
    line = np.full((CAPTION, image.shape[1], 3), 255, np.uint8)
    while text and cv2.getTextSize(text, *_FONT)[0][0] > image.shape[1] - 4:
        text = text[:-1]
    cv2.putText(line, text, (2, CAPTION - 6), _FONT[0], _FONT[1], (0, 0, 0), _FONT[2], cv2.LINE_AA)
    return np.concatenate([line, image])


def write_sheet(tiles: list[np.ndarray], columns: int, file: str | Path) -> Path:
    """Write pictures (H, W, 3) RGB in rows of ``columns`` to a PNG."""
    rows = [_stack(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    cv2.imwrite(str(file), _stack(rows, axis=0)[:, :, ::-1])
    return Path(file)
