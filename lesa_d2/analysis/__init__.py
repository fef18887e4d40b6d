"""Pictures and tables from trained models."""

from .pictures import draw_predictions
from .results import RunResult, write_table

__all__ = ["RunResult", "draw_predictions", "write_table"]
