"""Pictures, tables and numbers from trained models."""

from .pictures import draw_predictions
from .probes import without_own_position
from .results import RunResult, write_table
from .seen import ImageReader, SeenImage, find_images
from .term_maps import draw_heads, draw_term_maps, layer_maps
from .terms import TermReport, inspect_terms, plot_terms

__all__ = [
    "ImageReader",
    "RunResult",
    "SeenImage",
    "TermReport",
    "draw_heads",
    "draw_predictions",
    "draw_term_maps",
    "find_images",
    "inspect_terms",
    "layer_maps",
    "plot_terms",
    "without_own_position",
    "write_table",
]
