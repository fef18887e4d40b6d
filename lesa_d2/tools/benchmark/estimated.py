"""Estimates of memory beside measurements of the same steps."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig, instantiate
from torch import nn

from . import cases
from .cases import Place
from .measure import Measurement, Step, extra_memory
from .memory import step_memory, without_numbers
from .passes import Regions, spread_evenly, usual_regions

PROMPT = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
"""Has glibc give freed memory back; by default it keeps some, which depends on what was freed when."""

POSITIVES = 12  # regions with an object in the measured steps


@dataclass(frozen=True)
class Case:
    """A step: ``make`` as for measuring, ``build`` the same model for estimating."""

    name: str
    mode: str
    size: int
    make: Callable[[str], Step]
    build: Callable[[], nn.Module]

    def estimate(self) -> int:
        """Bytes."""
        with without_numbers():
            regions = usual_regions(self.build(), self.mode == "training")
        if regions is not None and self.mode == "training":
            regions = Regions(regions.boxes, POSITIVES)
        return step_memory(self.build, (self.size, self.size), 1, regions)

    def measure(self) -> int | None:
        """Bytes, in a fresh process."""
        with _environment(PROMPT):
            return extra_memory(self.make, self.mode, "cpu")


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def backbone_case(mode: str, size: int, place: Place, **options: Any) -> Case:
    """R50 alone, everything trained."""

    def build() -> nn.Module:
        return cases.make_backbone(cases.EvalBatchNorm2d, image_size=size, **options).train(
            mode == "training"
        )

    make = partial(cases.backbone, image_size=size, place=place, **options)
    return Case(f"R50, {options['operator']}, {size} px", mode, size, make, build)


def detector_case(mode: str, size: int, place: Place, config_file: Path, **bottom_up: Any) -> Case:
    """A config's detector, its anchors as proposals."""

    def build() -> nn.Module:
        cfg = LazyConfig.load(str(config_file)).model
        cfg.backbone.bottom_up.update(image_size=size, **bottom_up)
        model = instantiate(cfg).train(mode == "training")
        spread_evenly(model.roi_heads)
        return model

    file = str(config_file)
    make = partial(
        cases.detector, config_file=file, image_size=size, place=place, proposals=True, **bottom_up
    )
    stages = bottom_up.get("checkpoint_stages")
    name = f"{config_file.stem}, {size} px" + (f", {', '.join(stages)} checkpointed" if stages else "")
    return Case(name, mode, size, make, build)


def usual_cases(configs: Path, sizes: Sequence[int], place: Place) -> list[Case]:
    """Backbones and detectors at several sizes; the largest detector at the smallest size."""
    found = [
        backbone_case(mode, size, place, operator=operator)
        for size in sizes
        for operator in ("conv", "lesa")
        for mode in ("forward", "training")
    ]
    found += [
        detector_case(mode, size, place, configs / f"mask_rcnn_{name}_r50.py")
        for size in sizes
        for name in ("conv", "lesa")
        for mode in ("forward", "training")
    ]
    htc = configs / "htc_lesa_dconv_wr50_20e_1280.py"
    for options in ({}, {"checkpoint_stages": ["res3", "res4", "res5"]}):
        found.append(detector_case("training", min(sizes), place, htc, **options))
    return found


def compared(
    found: Sequence[Case],
) -> tuple[list[Measurement], str, None, dict[tuple[str, str], int]]:
    """Measurements of all cases, the first one's name, and the estimates: what a report of them takes."""
    measurements = [Measurement(case.name, case.mode, extra_bytes=case.measure()) for case in found]
    return measurements, found[0].name, None, {(case.name, case.mode): case.estimate() for case in found}
