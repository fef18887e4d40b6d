"""Checkpoints: conversion, weights by name, loading with a report, saving and resuming."""

from ..weights import models_folder, weights_state
from .architecture import convolution_options
from .conversion import CONVERSIONS, Conversion, check_target, convert_file, write_weights
from .convolution import ConvolutionStart, convolution_to_lesa, estimate_behind, slot_operators
from .foreign import Notes, Origin, author_of, origin_of, to_our_names
from .kinds import KINDS, holds_trained_model, kind_of, kind_of_file
from .loading import compare_weights, load_evaluated_weights, load_weights, unwrap
from .official import convert_backbone, convert_classifier, convert_detector, convert_layer, to_official
from .reading import read_checkpoint
from .report import LoadReport, SlotStart, slots_table
from .saving import FINAL, RunCheckpointer, WeightsWriter, checkpoint_files, last_checkpoint, periodic_files
from .start import DetectorStart, classifier_to_detector

__all__ = [
    "CONVERSIONS",
    "FINAL",
    "KINDS",
    "Conversion",
    "ConvolutionStart",
    "DetectorStart",
    "LoadReport",
    "Notes",
    "Origin",
    "RunCheckpointer",
    "SlotStart",
    "WeightsWriter",
    "author_of",
    "check_target",
    "checkpoint_files",
    "classifier_to_detector",
    "compare_weights",
    "convert_backbone",
    "convert_classifier",
    "convert_detector",
    "convert_file",
    "convert_layer",
    "convolution_options",
    "convolution_to_lesa",
    "estimate_behind",
    "holds_trained_model",
    "kind_of",
    "kind_of_file",
    "last_checkpoint",
    "load_evaluated_weights",
    "load_weights",
    "models_folder",
    "origin_of",
    "periodic_files",
    "read_checkpoint",
    "slot_operators",
    "slots_table",
    "to_official",
    "to_our_names",
    "unwrap",
    "weights_state",
    "write_weights",
]
