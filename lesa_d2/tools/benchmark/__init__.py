"""What the operators cost: time and peak memory of every variant beside the plain definition.

``attention`` and ``operator`` need torch and torchvision only; ``backbone`` and ``detector`` also detectron2.
"""

from .measure import Measurement, Variant, measure
from .report import Report, write_section

__all__ = ["Measurement", "Report", "Variant", "measure", "write_section"]
