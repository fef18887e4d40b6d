"""Pictures, tables and numbers that analyse trained models."""

from .comparison import comparison_table, plot_curves, read_runs
from .image_reader import ImageReader, SeenImage, find_images
from .probes import without_own_position
from .results import RESULT_FILE, RunResult, read_result, write_table
from .term_maps import draw_heads, draw_term_maps, layer_maps
from .terms import Accuracy, TermReport, inspect_terms, plot_terms

__all__ = [
    "RESULT_FILE",
    "Accuracy",
    "ImageReader",
    "RunResult",
    "SeenImage",
    "TermReport",
    "comparison_table",
    "draw_heads",
    "draw_term_maps",
    "find_images",
    "inspect_terms",
    "layer_maps",
    "plot_curves",
    "plot_terms",
    "read_result",
    "read_runs",
    "without_own_position",
    "write_table",
]
