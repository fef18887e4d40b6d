"""Estimates of memory beside measurements of the same steps, as evidence for them."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from unittest import mock

from ...config import load_config
from .cases import config_step
from .measure import Measurement, extra_memory
from .memory import MeasuredModel, Setting
from .report import Estimates

PROMPT = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
"""Has glibc give freed memory back; by default it keeps some, which depends on what was freed when."""


@dataclass(frozen=True)
class Case:
    """A step of a config's model on ``images`` square images of ``side`` pixels."""

    config: str
    side: int
    mode: str = "training"
    images: int = 1
    overrides: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Return a text for tables."""
        images = f"{self.images} × " if self.images > 1 else ""
        return " ".join([f"{self.config}, {images}{self.side} px", *self.overrides])

    def estimate(self) -> int:
        """Return the bytes that the step is estimated to take above weights and inputs."""
        cfg = load_config(self.config, self.overrides)
        measured = MeasuredModel(cfg, self.mode == "training")
        return Setting(measured, (self.side, self.side), self.images).step_memory()

    def measure(self) -> int | None:
        """Return the bytes that the step takes in a fresh process; None where that was killed."""
        make = partial(
            config_step,
            config_file=self.config,
            image_size=self.side,
            images=self.images,
            overrides=self.overrides,
        )
        with mock.patch.dict(os.environ, PROMPT):
            return extra_memory(make, self.mode, "cpu")


def usual_cases(sides: Sequence[int]) -> list[Case]:
    """Return steps of two kinds of detectors and of a classifier."""
    return [
        *(Case("mask_rcnn_lesa_r50", side) for side in sides),
        Case("mask_rcnn_lesa_r50", max(sides), "forward"),
        Case("retinanet_lesa_r50", max(sides)),
        Case("imagenet_lesa_r50", 224, images=16),
        Case("imagenet_lesa_r50", 224, "forward", images=16),
    ]


def compare(cases: Sequence[Case], title: str) -> Estimates:
    """Estimate and measure all cases, and print how far it is."""
    report = Estimates(title, [], cases[0].name, estimates={})
    for case in cases:
        report.estimates[case.name, case.mode] = case.estimate()
        report.measurements.append(Measurement(case.name, case.mode, extra_bytes=case.measure()))
        print(report.table().splitlines()[-1], file=sys.stderr, flush=True)
    return report
