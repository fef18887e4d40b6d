"""Keep the name by which runs of earlier versions saved their data sets."""

from .folder import folder_split as coco_folder_split

__all__ = ["coco_folder_split"]
