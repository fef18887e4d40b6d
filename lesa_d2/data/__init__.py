"""Data sets: generated shapes, COCO-format folders with their checks, folders of pictures to classify."""

from .augmentation import RandomSquareResize
from .checks import check_coco_folder, check_coco_json
from .coco_folder import (
    coco_folder_classes,
    coco_folder_has_masks,
    coco_folder_problems,
    coco_folder_split,
)
from .coco_layout import find_layout
from .images import ImageMapper, ImageRecords, image_folder
from .problems import DatasetProblemsError, Problem
from .shape_pictures import IMAGE_CLASSES, generate_shape_images, shape_images
from .shapes import SEM_SEG_CLASSES, SHAPE_CLASSES, STUFF_CLASSES, generate_shapes, shapes_split
from .stuff_maps import StuffMapper, coco_with_stuff_maps

__all__ = [
    "IMAGE_CLASSES",
    "SEM_SEG_CLASSES",
    "SHAPE_CLASSES",
    "STUFF_CLASSES",
    "DatasetProblemsError",
    "ImageMapper",
    "ImageRecords",
    "Problem",
    "RandomSquareResize",
    "StuffMapper",
    "check_coco_folder",
    "check_coco_json",
    "coco_folder_classes",
    "coco_folder_has_masks",
    "coco_folder_problems",
    "coco_folder_split",
    "coco_with_stuff_maps",
    "find_layout",
    "generate_shape_images",
    "generate_shapes",
    "image_folder",
    "shape_images",
    "shapes_split",
]
