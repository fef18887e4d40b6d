"""Reports for people: pictures of truth and detections, reports of data sets and of evaluations."""

from .data_report import write_data_report
from .detection_report import write_detection_report
from .pictures import draw_predictions
from .reporter import DetectionReports

__all__ = ["DetectionReports", "draw_predictions", "write_data_report", "write_detection_report"]
