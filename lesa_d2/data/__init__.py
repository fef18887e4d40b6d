"""Read data sets: folders of annotated images in a known format, folders of images to classify, generated shapes."""

from .augmentation import RandomSquareResize
from .coco import CocoFolder, check_coco_json
from .coco_folder import coco_folder_split
from .folder import DatasetFolder, folder_split, open_folder, register_format
from .formats import LabelMeFolder, VocFolder, YoloFolder
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
    "CocoFolder",
    "DatasetFolder",
    "DatasetProblemsError",
    "ImageMapper",
    "ImageRecords",
    "LabelMeFolder",
    "Problem",
    "RandomSquareResize",
    "StuffMapper",
    "VocFolder",
    "YoloFolder",
    "check_coco_json",
    "coco_folder_split",
    "coco_with_stuff_maps",
    "folder_split",
    "generate_shape_images",
    "generate_shapes",
    "image_folder",
    "open_folder",
    "register_format",
    "shape_images",
    "shapes_split",
]
