"""Export of backbone and FPN of a detector to files for other programs, checked against PyTorch."""

from .backbone import Exported, export_backbone
from .check import Comparison, compare
from .formats import FORMATS
from .model import load_detector
from .pyramid import FeaturePyramid

__all__ = [
    "FORMATS",
    "Comparison",
    "Exported",
    "FeaturePyramid",
    "compare",
    "export_backbone",
    "load_detector",
]
