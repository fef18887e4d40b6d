"""Checkpoints: conversion, the folder of our own weights, loading with a report."""

from .files import CONVERSIONS, Conversion, convert_file
from .loading import LoadReport, ReportingCheckpointer, WeightsWriter, unwrap
from .official import convert_backbone, convert_classifier, convert_detector, convert_layer, to_official
from .start import DetectorStart, classifier_to_detector, is_classifier, is_start
from .store import models_folder, register_models_folder, weights_state

register_models_folder()

__all__ = [
    "CONVERSIONS",
    "Conversion",
    "DetectorStart",
    "LoadReport",
    "ReportingCheckpointer",
    "WeightsWriter",
    "classifier_to_detector",
    "convert_backbone",
    "convert_classifier",
    "convert_detector",
    "convert_file",
    "convert_layer",
    "is_classifier",
    "is_start",
    "models_folder",
    "to_official",
    "unwrap",
    "weights_state",
]
