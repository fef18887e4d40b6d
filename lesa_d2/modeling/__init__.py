"""detectron2 parts; importing this registers the backbones with detectron2."""

from .classifier import ImageClassifier
from .norm import NORMS, make_norm
from .resnet import (
    SLOT_OPERATORS,
    SlotBottleneck,
    build_lesa_resnet,
    build_lesa_resnet_backbone,
    build_lesa_resnet_fpn_backbone,
)

__all__ = [
    "NORMS",
    "SLOT_OPERATORS",
    "ImageClassifier",
    "SlotBottleneck",
    "build_lesa_resnet",
    "build_lesa_resnet_backbone",
    "build_lesa_resnet_fpn_backbone",
    "make_norm",
]
