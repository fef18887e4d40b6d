"""Data sets: the generated shapes, and COCO-format folders of the user's own with their checks."""

from .checks import check_coco_folder, check_coco_json
from .coco_folder import coco_folder_classes, coco_folder_has_masks, coco_folder_split
from .coco_layout import find_layout
from .problems import DatasetProblemsError, Problem
from .shapes import SEM_SEG_CLASSES, SHAPE_CLASSES, STUFF_CLASSES, generate_shapes, shapes_split

__all__ = [
    "SEM_SEG_CLASSES",
    "SHAPE_CLASSES",
    "STUFF_CLASSES",
    "DatasetProblemsError",
    "Problem",
    "check_coco_folder",
    "check_coco_json",
    "coco_folder_classes",
    "coco_folder_has_masks",
    "coco_folder_split",
    "find_layout",
    "generate_shapes",
    "shapes_split",
]
