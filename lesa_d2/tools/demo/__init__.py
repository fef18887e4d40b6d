"""Predictions on images and video: drawn, compared side by side, as a page to browse."""

from .panels import DemoModel, Panels, load_models
from .report import HtmlReport
from .summary import DetectionSummary
from .video import FORMS, VideoReader, VideoWriter

__all__ = [
    "FORMS",
    "DemoModel",
    "DetectionSummary",
    "HtmlReport",
    "Panels",
    "VideoReader",
    "VideoWriter",
    "load_models",
]
