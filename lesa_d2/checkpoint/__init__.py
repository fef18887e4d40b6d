"""Checkpoints: conversion, the folder of our own weights, loading with a report."""

from .loading import LoadReport, ReportingCheckpointer, WeightsWriter
from .official import convert_backbone, convert_layer
from .store import models_folder, register_models_folder

register_models_folder()

__all__ = [
    "LoadReport",
    "ReportingCheckpointer",
    "WeightsWriter",
    "convert_backbone",
    "convert_layer",
    "models_folder",
]
