"""What the operators cost: time and peak memory of every variant beside the plain definition.

``cost_script`` is the command that says what any config costs, and whether a step of it fits into memory.
"""

from .measure import Measurement, Variant, measure
from .report import Report, write_section

__all__ = ["Measurement", "Report", "Variant", "measure", "write_section"]
