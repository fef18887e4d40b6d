"""Drawing of detections by detectron2's Visualizer, with one constant colour for each class."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import VisImage, Visualizer
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

LEAST_WIDTH = 320  # pixels; smaller images are drawn enlarged, so that their labels can be read
STUFF_ALPHA = 0.4  # opacity of the colours of pixel classes, which are drawn below the objects
# Opacity of the inside of masks, whose picture keeps its own colours; their contours are opaque.
MASK_ALPHA = 0.2
LEAST_SIDE = 3  # pixels; Visualizer refuses thinner masks
MOST_DRAWN = 20  # detections of a picture in a report; more hide it and each other
LABEL_MARGIN = 1.5  # pixels of a drawing around a label
LABEL = 22  # letters of a class name in a plot or picture of a report
TITLE_SHARE = 26  # the width of a picture, divided by the height of the letters in its title
TITLE_SIZES = (13, 40)  # least and greatest height of these letters in pixels


class ClassVisualizer(Visualizer):
    """Draw without random changes of colours, so that truth, predictions and all frames have the same ones.

    Args:
        image: (H, W, 3) uint8, RGB.
        class_names: names of the classes of objects, by index.
        width: width of the drawing in pixels; None is the image's own, but at least ``LEAST_WIDTH``.
        stuff_names: names of the classes of pixels, by index.
    """

    def __init__(
        self,
        image: np.ndarray,
        class_names: Sequence[str],
        width: int | None = None,
        stuff_names: Sequence[str] = (),
    ) -> None:
        metadata = Metadata(
            thing_classes=list(class_names),
            thing_colors=class_colours(len(class_names)),
            stuff_classes=list(stuff_names),
            stuff_colors=class_colours(len(stuff_names))[::-1],
        )
        scale = (width or max(LEAST_WIDTH, image.shape[1])) / image.shape[1]
        super().__init__(image, metadata, scale=scale)

    def draw_detections(self, detections: Instances) -> np.ndarray:
        """Draw boxes, masks, keypoints, classes and scores; return (h, w, 3) RGB.

        ``draw_instance_predictions`` of detectron2 is not used, as it hides what is below its masks.
        """
        names, colours = self.metadata.thing_classes, self.metadata.thing_colors
        detections = most_confident(
            detections, len(detections)
        )  # whose labels have the first choice of places
        scored = list(zip(detections.pred_classes.tolist(), detections.scores.tolist(), strict=True))
        assigned = [tuple(part / 255 for part in colours[index]) for index, _ in scored]
        self.overlay_instances(
            boxes=detections.pred_boxes,
            masks=detections.pred_masks.numpy() if detections.has("pred_masks") else None,
            keypoints=detections.pred_keypoints if detections.has("pred_keypoints") else None,
            assigned_colors=assigned,
            alpha=MASK_ALPHA,
        )
        labels = [f"{names[index]} {score:.0%}" for index, score in scored]
        self._draw_labels(labels, detections.pred_boxes.tensor.numpy(), assigned)
        return self.output.get_image()

    def draw_truth(self, record: dict) -> np.ndarray:
        """Draw the objects of a dataset dict, and return (h, w, 3) RGB; its stuff map is left out.

        ``draw_dataset_dict`` of detectron2 changes the colours at random.
        """
        objects = record.get("annotations", [])
        names, colours = self.metadata.thing_classes, self.metadata.thing_colors
        # detectron2 draws keypoints of all objects or of none.
        lengths = {len(a.get("keypoints") or ()) for a in objects}
        has_keypoints = len(lengths) == 1 and lengths != {0}
        has_masks = bool(objects) and all("segmentation" in a for a in objects)
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
        assigned = [tuple(part / 255 for part in colours[a["category_id"]]) for a in objects]
        self.overlay_instances(
            boxes=boxes,
            masks=[a["segmentation"] for a in objects] if has_masks else None,
            keypoints=np.array([a["keypoints"] for a in objects]).reshape(len(objects), -1, 3)
            if has_keypoints
            else None,
            assigned_colors=assigned,
            alpha=MASK_ALPHA,
        )
        labels = [names[a["category_id"]] + "|crowd" * bool(a.get("iscrowd")) for a in objects]
        self._draw_labels(labels, np.array(boxes).reshape(-1, 4), assigned)
        return self.output.get_image()

    def _draw_labels(self, labels: Sequence[str], boxes: np.ndarray, colours: Sequence[tuple]) -> None:
        """Write labels at their boxes (N, 4), the first first; one that finds no free place is left out."""
        taken: list[np.ndarray] = []
        margin = LABEL_MARGIN / self.output.scale
        side = np.sqrt(self.output.height * self.output.width)
        for label, box, colour in zip(labels, boxes, colours, strict=True):
            share = (box[3] - box[1]) / side  # letters as detectron2 has them: of small boxes smaller
            self.draw_text(
                label,
                (0, 0),
                color=self._change_color_brightness(colour, brightness_factor=0.7),
                horizontal_alignment="left",
                font_size=np.clip((share - 0.02) / 0.08 + 1, 1.2, 2) * 0.5 * self._default_font_size,
            )
            text = self.output.ax.texts[-1]
            extent = text.get_window_extent(self.output.canvas.get_renderer())
            size = np.array([extent.width, extent.height]) / self.output.scale + 2 * margin
            place = self._free_place(box, size, taken)
            if place is None:
                text.remove()
                continue
            text.set_position(place + margin)
            taken.append(np.concatenate([place, place + size]))

    def _free_place(
        self, box: np.ndarray, size: np.ndarray, taken: Sequence[np.ndarray]
    ) -> np.ndarray | None:
        """Return a corner (x, y) at a box where a label of this size (w, h) covers none of the taken rectangles."""
        x0, y0, x1, y1 = box
        above, below, inside, beside = (x0, y0 - size[1]), (x0, y1), (x0, y0), (x1, y0)
        is_small = min(x1 - x0, y1 - y0) * self.output.scale < 40  # pixels: a label inside would hide it
        places = (below, above, beside, inside) if is_small else (inside, above, below, beside)
        room = np.maximum([self.output.width - size[0], self.output.height - size[1]], 0)
        for place in places:
            corner = np.clip(place, 0, room)
            if not any((corner < other[2:]).all() and (corner + size > other[:2]).all() for other in taken):
                return corner
        return None

    def draw_text(self, text: str, *args: Any, **options: Any) -> VisImage:
        """Draw text in which ``$`` is a plain character."""
        return super().draw_text(as_plain_text(text), *args, **options)


def as_plain_text(text: str) -> str:
    """Escape ``$`` for matplotlib, which reads text between two of them as a formula, and fails if it is none."""
    return text.replace("$", r"\$")


def class_colours(number: int) -> list[tuple[int, int, int]]:
    """Return the RGB colour, 0 to 255, of each class; the colours repeat after 74 classes."""
    palette = colormap(rgb=True, maximum=255)
    return [tuple(palette[index % 74].tolist()) for index in range(number)]


def most_confident(detections: Instances, number: int = MOST_DRAWN) -> Instances:
    """Return at most ``number`` detections, those of the highest scores, by descending score."""
    return detections[detections.scores.argsort(descending=True, stable=True)[:number]]


def drawn_of(number: int) -> str:
    """Say how many of ``number`` detections a picture of a report shows."""
    detections = f"{number} detection{'s' * (number != 1)}"
    return f"the {MOST_DRAWN} surest of {detections}" if number > MOST_DRAWN else detections


def named_classes(class_names: Sequence[str], *detections: Instances) -> list[str]:
    """Return ``class_names``, extended by numbers for classes of the detections that have no name."""
    most = max((int(d.pred_classes.max()) + 1 for d in detections if len(d)), default=0)
    return [*class_names, *(f"class {index}" for index in range(len(class_names), most))]


def draw_detections(
    image: np.ndarray,
    detections: Instances,
    class_names: Sequence[str],
    labels: np.ndarray | None = None,
    stuff_names: Sequence[str] = (),
) -> np.ndarray:
    """Draw boxes, masks, keypoints, classes and scores on an image, above the classes of its pixels.

    Args:
        image: (H, W, 3) uint8, BGR.
        detections: detections of detectron2, in pixels of the image, on the CPU.
        class_names: names of the classes of objects, by index; classes without a name are numbered.
        labels: (H, W), the class of every pixel; None draws none.
        stuff_names: names of the classes of pixels, by index; classes without a name are numbered.

    Returns:
        (h, w, 3) uint8, BGR, of the image's size, but at least ``LEAST_WIDTH`` pixels wide.
    """
    names = named_classes(class_names, detections)
    if min(image.shape[:2]) < LEAST_SIDE and detections.has("pred_masks"):
        detections = detections[:]  # a copy: the caller's detections keep their masks
        detections.remove("pred_masks")
    stuff = list(stuff_names)
    if labels is not None:
        stuff += [f"class {index}" for index in range(len(stuff), int(labels.max()) + 1)]
    visualizer = ClassVisualizer(image[:, :, ::-1], names, stuff_names=stuff)
    if labels is not None:
        visualizer.draw_sem_seg(labels, alpha=STUFF_ALPHA)
    drawn = visualizer.draw_detections(detections)
    return np.ascontiguousarray(drawn[:, :, ::-1])


def shortened(name: str, length: int = LABEL) -> str:
    """Return a name on one line, cut to ``length`` letters."""
    name = " ".join(name.split())
    return name if len(name) <= length else name[: length - 1] + "…"


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of matplotlib's plots, which has accented, Greek and Cyrillic letters; Pillow's has none."""
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def add_title(picture: np.ndarray, title: str, most: int = TITLE_SIZES[1]) -> np.ndarray:
    """Return ``picture`` (h, w, 3) below a white strip with ``title``, in letters at most ``most`` pixels high.

    A title that is too long is in smaller letters, or cut.
    """
    width, least = picture.shape[1], TITLE_SIZES[0]
    size = min(max(width // TITLE_SHARE, least), most)
    letters = next((s for s in range(size, least, -1) if _font(s).getlength(title) <= width - size), least)
    font = _font(letters)
    strip = Image.new("RGB", (width, round(1.6 * size)), "white")
    draw = ImageDraw.Draw(strip)
    shown = title
    while len(shown) > 1 and draw.textlength(shown, font) > width - size:
        shown = shown[:-2].rstrip("…") + "…"
    draw.text((width / 2, strip.height / 2), shown, "black", font, anchor="mm")
    return np.concatenate([np.asarray(strip), picture], axis=0)
