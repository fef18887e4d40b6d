"""Read folders in COCO format: their layouts, their JSON files, and everything that is checked in them."""

from .checks import check_coco_json
from .folder import CocoFolder

__all__ = ["CocoFolder", "check_coco_json"]
