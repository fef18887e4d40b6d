"""Reports for people: pictures of truth and detections, reports of data sets and of evaluations."""

from .data_report import write_data_report
from .detection_report import write_detection_report
from .reporter import DetectionReports

__all__ = ["DetectionReports", "write_data_report", "write_detection_report"]
