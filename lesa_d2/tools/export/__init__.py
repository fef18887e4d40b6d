"""Export of a detector, or of its backbone and FPN, to files for other programs, checked against PyTorch."""

from .backbone import Exported, export_backbone
from .check import Comparison, compare
from .detector import WholeDetector, export_detector
from .formats import FORMATS
from .model import load_detector
from .pyramid import FeaturePyramid

__all__ = [
    "FORMATS",
    "Comparison",
    "Exported",
    "FeaturePyramid",
    "WholeDetector",
    "compare",
    "export_backbone",
    "export_detector",
    "load_detector",
]
