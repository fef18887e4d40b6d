"""Small hand-made COCO files."""

import hashlib
import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

SQUARE = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]  # 10 x 6 px with its corner at (2, 3)


def make_annotation(annotation_id=1, image_id=1, category_id=1, **changes):
    annotation = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [2, 3, 10, 6],
        "area": 60,
        "iscrowd": 0,
        "segmentation": SQUARE,
    }
    return {**annotation, **changes}


def make_coco(num_images=1, annotations=None, names=("nut",), **changes):
    """Images 1..n of 20 x 16 px, one annotation each unless others are given, categories 1..K."""
    ids = range(1, num_images + 1)
    coco = {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 16} for i in ids],
        "annotations": [make_annotation(i, i) for i in ids] if annotations is None else annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    return {**coco, **changes}


def write_coco(json_file, coco, image_root):
    """Write the JSON and a picture for every image that it lists."""
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(coco))
    image_root.mkdir(parents=True, exist_ok=True)
    for image in coco["images"]:
        pixels = np.full((int(image["height"]), int(image["width"]), 3), 128, dtype=np.uint8)
        pixels[0, 0] = list(hashlib.sha256(image["file_name"].encode()).digest()[:3])  # no two are equal
        Image.fromarray(pixels).save(image_root / image["file_name"])


@pytest.fixture(autouse=True)
def clean_catalogs():
    """Every test starts from, and leaves, the catalogs as they were."""
    before = set(DatasetCatalog.list()), set(MetadataCatalog.list())
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog.list()) - names:
            catalog.remove(name)


@pytest.fixture
def annotation():
    return make_annotation


@pytest.fixture
def coco():
    return make_coco


@pytest.fixture
def write():
    return write_coco
