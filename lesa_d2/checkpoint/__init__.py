"""Checkpoints: conversion, the folder of our own weights, loading with a report."""

from .official import convert_backbone, convert_layer

__all__ = ["convert_backbone", "convert_layer"]
