"""Read folders in other formats than COCO: each becomes a COCO document, which is checked and registered as any other.

Imported after :mod:`lesa_d2.data.coco`, whose format is tried first.
"""

from .labelme import LabelMeFolder
from .voc import VocFolder
from .yolo import YoloFolder

__all__ = ["LabelMeFolder", "VocFolder", "YoloFolder"]
