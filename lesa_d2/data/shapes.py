"""Generate the *shapes* data set, to train on without a download.

Every image has one to three textured background regions and one to five shapes of random size,
tilt and fill, which may hide one another. Labels come as COCO JSON (instances, visible pixels only)
and as stuff maps (every pixel). Image ``i`` is a function of ``(seed, i, image_size)`` alone, so sets of
different lengths begin with the same images, and different seeds have none in common.

Shape shorthand: S is the image side in pixels; images are (S, S, 3) float32 RGB in 0..255 while they
are drawn, masks are (S, S) bool.
"""

import colorsys
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.datasets import load_coco_json
from PIL import Image
from pycocotools import mask as mask_util

from ..errors import ConfigError
from ..storage import write_text
from .generated import Info, generate_once
from .progress import progress
from .registration import register_dataset
from .stuff_maps import IGNORE_LABEL, STUFF_FILE

SHAPE_CLASSES = ["circle", "triangle", "square", "star"]
STUFF_CLASSES = ["gradient", "stripes", "checker", "speckle"]
SEM_SEG_CLASSES = SHAPE_CLASSES + STUFF_CLASSES  # the index is the value in a stuff map

GENERATOR_VERSION = "1"  # raise it whenever a change alters images or labels

MIN_IMAGE_SIZE = 32
MAX_OBJECTS = 5
MIN_VISIBLE = 0.65  # share of an object's own pixels; with less, a person cannot recognise it
MIN_VISIBLE_PIXELS = 80
SUPERSAMPLE = 4
NOISE_SIGMA = 4.0  # grey levels

# Side of the square of equal area, in pixels, and share: COCO's small, medium and large. The shares are those
# of the objects tried; a small image has room for few large ones, and partly hidden ones may count as medium.
SIZE_RANGES = ((16.0, 31.0), (33.0, 95.0), (108.0, 400.0))
SIZE_SHARES = (0.4, 0.4, 0.2)
MAX_TILT = np.deg2rad(15)  # radians; like most things in photographs, shapes stand nearly upright
MAX_SIDE_OF_IMAGE = 0.75


def generate_shapes(directory: str | Path, *, num_images: int, image_size: int, seed: int) -> Path:
    """Write a shapes data set and return its folder; an existing, equal set is kept.

    The folder holds ``images/000000.jpg``, ``annotations.json`` (COCO; category ids 1..4) and
    ``stuff/000000.png`` (uint8, values index ``SEM_SEG_CLASSES``).

    Args:
        directory: the folder to make.
        num_images: how many images, at least 1.
        image_size: side of the square images in pixels, at least 32.
        seed: non-negative; another seed gives other images.

    Raises:
        ConfigError: arguments out of range.
        DatasetError: the folder holds something else.
    """
    check_arguments(num_images, image_size, seed)
    info = make_info("LESA-D2 generated shapes", num_images, image_size, seed)
    return generate_once(
        directory, info, lambda draft: _write(draft, info, num_images, image_size, seed), _read_info
    )


def shapes_split(split: str, num_images: int, image_size: int, seed: int) -> str:
    """Generate a shapes set if it is missing, register it, and return its name.

    The set lies under ``$DETECTRON2_DATASETS`` (default ``./datasets``). A LazyConfig node:
    ``names=L(shapes_split)(split="train", num_images=1500, image_size=160, seed=0)``.

    Args:
        split: a label for name and folder. It does *not* alter the images: give every split its own seed.
        num_images: see :func:`generate_shapes`.
        image_size: side in pixels.
        seed: of the images.
    """
    label = f"{split}_{num_images}x{image_size}px_seed{seed}"
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser() / "shapes"
    directory = generate_shapes(root / label, num_images=num_images, image_size=image_size, seed=seed)
    name = f"shapes_{label}"
    return register_dataset(
        name,
        lambda: _load(directory, name),
        thing_classes=SHAPE_CLASSES,
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(SHAPE_CLASSES))},
        # detectron2 names a stuff map's value v as stuff_classes[v], and the maps label shapes too.
        stuff_classes=SEM_SEG_CLASSES,
        ignore_label=IGNORE_LABEL,
        json_file=str(directory / "annotations.json"),
        image_root=str(directory / "images"),
        sem_seg_root=str(directory / "stuff"),
        evaluator_type="coco",
    )


def _load(directory: Path, name: str) -> list[dict]:
    records = load_coco_json(str(directory / "annotations.json"), str(directory / "images"), name)
    for record in records:
        record[STUFF_FILE] = str(directory / "stuff" / f"{record['image_id']:06d}.png")
    return records


# ---------------------------------------------------------------------------------------------- files


def check_arguments(num_images: int, image_size: int, seed: int) -> None:
    """Check the arguments of a generator.

    Raises:
        ConfigError: one of them is no integer or too small.
    """
    for name, value, least in (
        ("num_images", num_images, 1),
        ("image_size", image_size, MIN_IMAGE_SIZE),
        ("seed", seed, 0),
    ):
        if not isinstance(value, int) or value < least:
            raise ConfigError(f"shapes: {name} must be an integer of at least {least}, got {value!r}")


def make_info(description: str, num_images: int, image_size: int, seed: int) -> Info:
    """Return what determines the content of a generated set."""
    arguments = {"num_images": num_images, "image_size": image_size, "seed": seed}
    return {"description": description, "version": GENERATOR_VERSION, **arguments}


def _read_info(directory: Path) -> Any:
    annotations = directory / "annotations.json"
    if not annotations.is_file():
        return "no annotations.json"
    return json.loads(annotations.read_text()).get("info")


def _write(directory: Path, info: Info, num_images: int, image_size: int, seed: int) -> None:
    (directory / "images").mkdir()
    (directory / "stuff").mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for index in progress(range(num_images), "Generating shapes"):
        scene = draw_scene(np.random.default_rng([seed, index]), image_size)
        file_name = f"{index:06d}.jpg"
        Image.fromarray(scene.image).save(directory / "images" / file_name, quality=95)
        Image.fromarray(scene.sem_seg).save(directory / "stuff" / f"{index:06d}.png")
        images.append({"id": index, "file_name": file_name, "height": image_size, "width": image_size})
        # COCO's evaluation takes annotation id 0 for "no match", so ids start at 1.
        annotations += _annotations(scene, image_id=index, first_id=len(annotations) + 1)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(SHAPE_CLASSES)]
    coco = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    write_text(directory / "annotations.json", json.dumps(coco))


def _annotations(scene: "Scene", image_id: int, first_id: int) -> list[dict]:
    rles = mask_util.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0), dtype=np.uint8))
    return [
        {
            "id": first_id + i,
            "image_id": image_id,
            "category_id": int(label) + 1,
            "bbox": mask_util.toBbox(rle).tolist(),
            "area": int(mask_util.area(rle)),
            "iscrowd": 0,
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        }
        for i, (rle, label) in enumerate(zip(rles, scene.labels, strict=True))
    ]


# -------------------------------------------------------------------------------------------- drawing


@dataclass
class Scene:
    """Hold one generated image with its labels."""

    image: np.ndarray  # (S, S, 3) uint8 RGB
    sem_seg: np.ndarray  # (S, S) uint8, indexes SEM_SEG_CLASSES
    masks: np.ndarray  # (n, S, S) bool: visible pixels, disjoint
    labels: list[int]  # n indices into SHAPE_CLASSES


def draw_scene(rng: np.random.Generator, image_size: int) -> Scene:
    """Draw one image of side ``image_size``: background, then shapes from back to front."""
    count = int(rng.integers(1, 4))
    image, sem_seg, colours = _background(rng, image_size, rng.permutation(len(STUFF_CLASSES))[:count])
    owner = np.full((image_size, image_size), -1)  # which object a pixel shows
    labels: list[int] = []
    areas: list[int] = []  # of the whole objects, hidden parts included
    for side in _sides(rng, image_size):
        label = int(rng.integers(len(SHAPE_CLASSES)))
        for _ in range(10):  # try other positions; a crowded image gets fewer objects
            alpha, area = _draw_shape(rng, label, side, image_size)
            candidate = np.where(alpha >= 0.5, len(labels), owner)
            if _all_recognisable(candidate, [*areas, area]):
                owner = candidate
                labels.append(label)
                areas.append(area)
                sem_seg[owner == len(labels) - 1] = label
                fill, colour = _fill(rng, image_size, colours)
                colours.append(colour)
                image += alpha[..., None] * (fill - image)
                break
    masks = owner == np.arange(len(labels))[:, None, None]
    return Scene(_photograph(rng, image), sem_seg, masks, labels)


def draw_object(rng: np.random.Generator, image_size: int, shape: int, texture: int) -> np.ndarray:
    """Draw one shape on a background of one texture, (S, S, 3) uint8 RGB; its side is 0.4 to 0.75 of S."""
    image, _, colours = _background(rng, image_size, np.array([texture]))
    alpha, _ = _draw_shape(rng, shape, rng.uniform(0.4, MAX_SIDE_OF_IMAGE) * image_size, image_size)
    fill, _ = _fill(rng, image_size, colours)
    return _photograph(rng, image + alpha[..., None] * (fill - image))


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return a drawing (S, S, 3) with noise, as uint8."""
    noisy = image + NOISE_SIGMA * rng.standard_normal(image.shape, dtype=np.float32)
    return noisy.clip(0, 255).round().astype(np.uint8)


def _all_recognisable(owner: np.ndarray, areas: list[int]) -> bool:
    visible = np.bincount(owner[owner >= 0], minlength=len(areas))
    return bool((visible >= np.maximum(MIN_VISIBLE * np.array(areas), MIN_VISIBLE_PIXELS)).all())


def _sides(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Return the sizes of the objects to draw, in drawing order: sqrt(area) in pixels."""
    most = MAX_SIDE_OF_IMAGE * image_size
    ranges = np.array([(low, min(high, most)) for low, high in SIZE_RANGES if low < most])
    shares = np.array(SIZE_SHARES[: len(ranges)])
    count = rng.integers(1, MAX_OBJECTS + 1)
    low, high = ranges[rng.choice(len(ranges), size=count, p=shares / shares.sum())].T
    sides = np.exp(rng.uniform(np.log(low), np.log(high)))
    # Large ones are mostly drawn first, or they would hide all others; the jitter draws some small ones first too.
    return sides[np.argsort(-sides * np.exp(0.4 * rng.standard_normal(count)))]


def _draw_shape(rng: np.random.Generator, label: int, side: float, image_size: int) -> tuple[np.ndarray, int]:
    """Draw a shape at a random position and tilt: return its coverage (S, S) in 0..1 and its whole area in pixels."""
    outline = _unit_outline(SHAPE_CLASSES[label]) * side
    turn = rng.uniform(-MAX_TILT, MAX_TILT)
    outline = outline @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    # The border may cut off corners, not more.
    margin = min(0.65 * np.linalg.norm(outline, axis=1).max(), image_size / 2)
    centre = rng.uniform(margin, image_size - margin, size=2)
    canvas = np.zeros((image_size * SUPERSAMPLE,) * 2, dtype=np.uint8)
    # OpenCV puts integer coordinates at pixel centres, hence -0.5; 4 fractional bits, hence * 16.
    points = np.round(((outline + centre) * SUPERSAMPLE - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [points], 255, shift=4)
    alpha = cv2.resize(canvas, (image_size,) * 2, interpolation=cv2.INTER_AREA)
    return alpha.astype(np.float32) / 255, round(side**2)


_OUTLINES = {
    "circle": (64, 1.0, -90),
    "triangle": (3, 1.0, -90),
    "square": (4, 1.0, 45),
    "star": (10, 0.45, -90),
}
"""Corners, radius of every second one relative to the others, direction of the first in degrees (-90: up)."""


def _unit_outline(shape: str) -> np.ndarray:
    """Return the corners (k, 2) of an upright shape of area 1 around the origin."""
    corners, inner, first = _OUTLINES[shape]
    radius = np.where(np.arange(corners) % 2, inner, 1.0)
    angle = np.deg2rad(first) + 2 * np.pi * np.arange(corners) / corners
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x, y = points.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    return points / np.sqrt(area)


def _background(
    rng: np.random.Generator, image_size: int, textures: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Draw a Voronoi region for each texture: return image (S, S, 3), stuff map (S, S) and the colours used."""
    seeds = rng.uniform(0, image_size, size=(len(textures), 2))
    y, x = np.mgrid[:image_size, :image_size].astype(np.float32) + 0.5
    region = np.argmin([(x - sx) ** 2 + (y - sy) ** 2 for sx, sy in seeds], axis=0)
    image = np.zeros((image_size, image_size, 3), dtype=np.float32)
    colours: list[np.ndarray] = []
    for index, texture in enumerate(textures):
        pair = _muted_pair(rng)
        painted = _blend(_texture(STUFF_CLASSES[texture], rng, image_size), *pair)
        inside = (region == index).astype(np.float32)
        image += cv2.blur(inside, (2, 2))[..., None] * painted  # the blur anti-aliases the border
        colours += pair
    sem_seg = (len(SHAPE_CLASSES) + textures[region]).astype(np.uint8)
    return image, sem_seg, colours


def _fill(
    rng: np.random.Generator, image_size: int, colours: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the paint of one object, (S, S, 3) or (3,), and its main colour, far from the ``colours`` in use."""
    colour = _contrasting(rng, colours)
    if rng.random() < 0.6:
        return colour, colour
    shade = np.clip(colour * rng.uniform(0.7, 0.85), 0, 255).astype(np.float32)
    texture = STUFF_CLASSES[rng.integers(len(STUFF_CLASSES))]
    return _blend(_texture(texture, rng, image_size), colour, shade), colour


def _blend(weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first + weight[..., None] * (second - first)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def _muted_pair(rng: np.random.Generator) -> list[np.ndarray]:
    """Return two greyish colours of one hue, different enough to show a texture."""
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.65)
    return [_hsv(hue, saturation, value), _hsv(hue, saturation, value + rng.uniform(0.12, 0.25))]


def _contrasting(rng: np.random.Generator, colours: list[np.ndarray]) -> np.ndarray:
    """Return the one of some vivid colours that is farthest from all ``colours``."""
    candidates = np.array([_hsv(rng.random(), rng.uniform(0.5, 1), rng.uniform(0.5, 1)) for _ in range(24)])
    distances = np.linalg.norm(candidates[:, None] - np.array(colours), axis=-1)
    return candidates[distances.min(axis=1).argmax()]


# ------------------------------------------------------------------------------------------- textures


def _texture(name: str, rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Return weights (S, S) in 0..1 between two colours, at a random angle."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:image_size, :image_size].astype(np.float32)
    u = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    v = np.float32(np.cos(angle)) * y - np.float32(np.sin(angle)) * x
    return _TEXTURES[name](u, v, rng)


def _gradient(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (u - u.min()) / (u.max() - u.min())


def _wave(u: np.ndarray, period: float) -> np.ndarray:
    """Return a square wave of -1..1 with anti-aliased steps."""
    return np.clip(np.sin(2 * np.pi / period * u) * period / 4, -1, 1)


def _stripes(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.5 * _wave(u, rng.uniform(6, 20))


def _checker(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    period = rng.uniform(12, 32)
    return 0.5 + 0.5 * _wave(u, period) * _wave(v, period)


def _speckle(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grains = rng.standard_normal(u.shape, dtype=np.float32)
    return np.clip(0.5 + 1.5 * cv2.GaussianBlur(grains, (0, 0), rng.uniform(0.8, 1.8)), 0, 1)


_TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "gradient": _gradient,
    "stripes": _stripes,
    "checker": _checker,
    "speckle": _speckle,
}
