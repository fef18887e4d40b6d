"""Generated shapes as data of other kinds: keypoints, and panoptic segmentation with things as one class."""

import os
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_FLIP_MAP, COCO_PERSON_KEYPOINT_NAMES
from detectron2.structures import BoxMode
from PIL import Image

from lesa_d2.data import SHAPE_CLASSES, STUFF_CLASSES, shapes_split
from lesa_d2.data.registration import register_dataset

SEEDS = {"train": 1, "val": 2}
SIDE = 64


def shapes(split, num_images=8):
    """Override of ``dataloader.SPLIT.dataset.names``."""
    name = {"train": "train", "val": "test"}[split]
    target = "_target_:lesa_d2.data.shapes_split"
    arguments = f"split:{split},num_images:{num_images},image_size:{SIDE},seed:{SEEDS[split]}"
    return f"dataloader.{name}.dataset.names={{{target},{arguments}}}"


def keypoint_split(split):
    """Every shape is a person, with its 17 keypoints spread over its box."""
    source = shapes_split(split=split, num_images=8, image_size=SIDE, seed=SEEDS[split])

    def load():
        records = DatasetCatalog.get(source)
        for record in records:
            for annotation in record["annotations"]:
                x, y, width, height = BoxMode.convert(
                    annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS
                )
                places = np.random.default_rng(record["image_id"]).uniform(size=(17, 2))
                points = np.column_stack([places * [width, height] + [x, y], np.full(17, 2)])
                annotation.update(category_id=0, keypoints=points.flatten().tolist())
        return records

    return register_dataset(
        f"keypoints_{source}",
        load,
        thing_classes=["person"],
        keypoint_names=COCO_PERSON_KEYPOINT_NAMES,
        keypoint_flip_map=COCO_PERSON_KEYPOINT_FLIP_MAP,
        evaluator_type="coco",
    )


def panoptic_split(split):
    """Shapes whose stuff maps have one class, 0, for all things."""
    source = shapes_split(split=split, num_images=8, image_size=SIDE, seed=SEEDS[split])
    metadata = {k: v for k, v in MetadataCatalog.get(source).as_dict().items() if k != "name"}
    folder = Path(os.environ["DETECTRON2_DATASETS"]) / f"panoptic_{split}"
    if not folder.exists():
        folder.mkdir(parents=True)
        for file in Path(metadata["sem_seg_root"]).glob("*.png"):
            labels = np.asarray(Image.open(file)).astype(int) - len(SHAPE_CLASSES) + 1
            Image.fromarray(labels.clip(0).astype(np.uint8)).save(folder / file.name)

    def load():
        return [
            {**record, "sem_seg_file_name": str(folder / Path(record["sem_seg_file_name"]).name)}
            for record in DatasetCatalog.get(source)
        ]

    changed = {"stuff_classes": ["things", *STUFF_CLASSES], "sem_seg_root": str(folder)}
    return register_dataset(f"panoptic_{source}", load, **{**metadata, **changed})
