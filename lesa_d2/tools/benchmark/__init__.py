"""What the operators cost: time and peak memory of every variant beside the plain definition.

``tables`` lists what stands beside what; ``cost``, ``memory`` and ``fit`` say what a step of any config takes,
and whether it fits into memory.
"""

from .measure import Measurement, Variant, measure
from .report import Report, write_section

__all__ = ["Measurement", "Report", "Variant", "measure", "write_section"]
