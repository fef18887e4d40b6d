"""COCO 2017 in miniature, laid out as detectron2 expects it."""

import json

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

SPLITS = {
    "train": "instances_train2017",
    "val": "instances_val2017",
    "test": "image_info_test-dev2017",
}


def write_coco_tree(datasets):
    """Make ``datasets/coco``: three pictures a split, an object each but in test-dev; stuff maps."""
    root = datasets / "coco"
    (root / "annotations").mkdir(parents=True)
    things = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    for split, file in SPLITS.items():
        images, annotations = [], []
        (root / f"{split}2017").mkdir()
        (root / f"stuffthingmaps/{split}2017").mkdir(parents=True)
        for index in range(3):
            name = f"{index:012d}"
            pixels = np.random.default_rng(index).integers(0, 255, (48, 56, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{split}2017/{name}.jpg")
            labels = np.full((48, 56), 150 + index, np.uint8)
            Image.fromarray(labels).save(root / f"stuffthingmaps/{split}2017/{name}.png")
            images.append({"id": index, "file_name": f"{name}.jpg", "width": 56, "height": 48})
            ids = {"id": index + 1, "image_id": index, "category_id": 90, "iscrowd": 0}
            polygon = [5, 5, 35, 5, 35, 30, 5, 30]
            annotations.append({**ids, "bbox": [5, 5, 30, 25], "area": 750, "segmentation": [polygon]})
        data = {"info": {}, "images": images, "categories": things}
        if split != "test":
            data["annotations"] = annotations
        (root / f"annotations/{file}.json").write_text(json.dumps(data))
    return root
