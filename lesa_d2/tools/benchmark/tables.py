"""The tables of the benchmark: which variants stand beside each other, and under what title."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from . import cases
from .estimates import compare, usual_cases
from .image_training import image_loader, photographs
from .measure import MODES, Measurement, Variant, measure
from .report import Growth, Report, Throughput

PLAIN = "plain formula"
YARDSTICK = "no bias, d=32"
GROWTH_SIDES = (32, 48, 64, 96, 128)  # res4 maps of images of 512 … 2048 px


@dataclass(frozen=True)
class Conditions:
    """How the variants of a table are measured.

    ``image_sizes`` are sides in pixels, empty for those of the table; ``rounds`` and ``budget`` are those of
    :func:`measure`.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    rounds: int = 7
    budget: float = 60.0
    image_sizes: Sequence[int] = ()

    @property
    def of_case(self) -> dict[str, Any]:
        """Return the arguments that every case takes."""
        return {"device": self.device, "dtype": self.dtype}

    def measure(self, variants: Sequence[Variant], modes: Sequence[str] = MODES) -> list[Measurement]:
        """Measure every variant under these conditions; see :func:`measure`."""
        return measure(variants, self.device, rounds=self.rounds, budget=self.budget, modes=modes)


def attention(conditions: Conditions) -> Iterator[Report]:
    """Compare the backends on one head group of a 1024 px image, then growth with the side of the image."""
    run = conditions.measure
    yield Report(
        "Attention alone, 8 heads of 16 key and 32 value channels, 64×64 map",
        run(cases.variants_of_attention(64, **conditions.of_case)),
        plain="reference",
        yardstick=YARDSTICK,
    )
    yield vitdet(conditions)
    yield growth(conditions)


def vitdet(conditions: Conditions) -> Report:
    """Compare a global attention block of detectron2's ViTDet with the same block computed by ours."""
    variants = [
        Variant(name, partial(cases.vitdet, exact=exact, side=64, **conditions.of_case))
        for name, exact in (("detectron2's", False), ("ours", True))
    ]
    return Report(
        "Global attention of ViTDet-B at 1024 px: 12 heads of 64 channels, 64×64 map, projections included",
        conditions.measure(variants),
        plain="detectron2's",
    )


def growth(conditions: Conditions) -> Report:
    """Measure the fastest backend on maps of growing side."""
    variants = [
        Variant(f"{16 * side} px", partial(cases.relative, backend="auto", side=side, **conditions.of_case))
        for side in GROWTH_SIDES
    ]
    return Growth(
        'Attention, backend "auto", by image side',
        conditions.measure(variants),
        plain=variants[0].name,
        sides=GROWTH_SIDES,
    )


def operator(conditions: Conditions) -> Iterator[Report]:
    """Compare the binary term and whole operators on res4 at 1024 px, and on ImageNet's 14×14 maps."""
    run = conditions.measure

    def variant(name: str, **options: Any) -> Variant:
        return Variant(name, partial(cases.operator, side=64, **conditions.of_case, **options))

    binary = dict(operator="lesa", section="binary")
    yardstick = Variant(YARDSTICK, partial(cases.unbiased, side=64, **conditions.of_case))
    for statistics in ("stored", "batch"):
        variants = [
            variant(PLAIN, backend=cases.DEFINITION, statistics=statistics, **binary),
            variant("binary term", statistics=statistics, **binary),
            yardstick,
        ]
        title = f"Binary term, C=256, 64×64 map, norms with {statistics} statistics"
        yield Report(title, run(variants), PLAIN, YARDSTICK)
    variants = [
        variant(PLAIN, operator="lesa", backend=cases.DEFINITION),
        *(variant(name, operator=name) for name in ("lesa", "static_lesa", "self_attention", "conv")),
    ]
    yield Report("Operators, C=256, 64×64 map", run(variants), PLAIN, "conv")
    small = dict(
        side=14, images=16, positions="flattened", statistics="batch", **conditions.of_case, **binary
    )
    variants = [
        Variant(PLAIN, partial(cases.operator, backend=cases.DEFINITION, **small)),
        Variant("binary term", partial(cases.operator, **small)),
    ]
    title = "Flattened positions, C=256, 16 images of 14×14, batch statistics"
    yield Report(title, run(variants), PLAIN)


def backbone(conditions: Conditions) -> Iterator[Report]:
    """Compare R50 with its convolutions, self-attention, LESA, and LESA by the plain formula."""

    def variant(name: str, size: int, **options: Any) -> Variant:
        return Variant(name, partial(cases.backbone, image_size=size, **conditions.of_case, **options))

    last = torch.channels_last

    for size in conditions.image_sizes or (512, 1024):
        variants = [
            variant(PLAIN, size, operator="lesa", backend=cases.DEFINITION),
            *(variant(name, size, operator=name) for name in ("lesa", "self_attention", "conv")),
            *(
                variant(f"{name}, channels_last", size, operator=name, memory_format=last)
                for name in ("lesa", "conv")
            ),
        ]
        title = f"R50 backbone, one image of {size}×{size}, stored statistics"
        yield Report(title, conditions.measure(variants), PLAIN, "conv")


def detector(conditions: Conditions) -> Iterator[Report]:
    """Compare Mask R-CNN, R50, with three operators, on the same regions.

    The plain formula is left out, as its backbone alone takes most of the time and memory: see there.
    """
    for size in conditions.image_sizes or (1024, 1280):
        variants = [
            Variant(
                name,
                partial(
                    cases.detector,
                    config_file=f"mask_rcnn_{name}_r50",
                    image_size=size,
                    **conditions.of_case,
                ),
            )
            for name in ("conv", "sa", "lesa")
        ]
        title = (
            f"Mask R-CNN R50, one image of {size}×{size}, {cases.PROPOSALS:,} proposals and {cases.DETECTIONS} "
            "detections in each, stem and res2 frozen"
        )
        yield Report(title, conditions.measure(variants), "conv")


def htc(conditions: Conditions) -> Iterator[Report]:
    """Measure a training step of the paper's largest detector, with and without checkpointed stages."""

    def variant(name: str, size: int, *stages: str) -> Variant:
        file = "htc_lesa_dconv_wr50_20e_1280"
        options = dict(
            config_file=file, image_size=size, **conditions.of_case, checkpoint_stages=list(stages)
        )
        return Variant(name, partial(cases.detector, **options))

    for size in conditions.image_sizes or (1280,):
        plain = "nothing checkpointed"
        variants = [
            variant(plain, size),
            variant("res4 checkpointed", size, "res4"),
            variant("res3, res4, res5 checkpointed", size, "res3", "res4", "res5"),
        ]
        title = (
            f"Hybrid Task Cascade, deformable LESA-WRN50, one image of {size}×{size}, stem and res2 frozen"
        )
        yield Report(title, conditions.measure(variants, modes=("training",)), plain)


def pretraining(conditions: Conditions) -> Iterator[Report]:
    """Compare training R50 classifiers at 224 px with reading and augmenting JPEGs alone, in pictures a second."""
    images = 16

    def step(name: str) -> Variant:
        file = f"imagenet_{name}_r50"
        return Variant(
            f"training step, {name}",
            partial(
                cases.config_step,
                config_file=file,
                images=images,
                image_size=224,
                **conditions.of_case,
            ),
        )

    with tempfile.TemporaryDirectory() as folder:
        read = partial(
            image_loader,
            config_file="imagenet_lesa_r50",
            folder=str(photographs(Path(folder))),
            images=images,
        )
        loaders = [Variant(f"reading, {n} worker(s)", partial(read, workers=n)) for n in (0, 1, 2)]
        found = conditions.measure([step("lesa"), step("conv"), *loaders], modes=("training",))
    title = f"Pre-training at 224 px, {images} images a step, JPEGs of 500×375"
    yield Throughput(title, found, plain="training step, lesa", images=images)


def memory(conditions: Conditions) -> Iterator[Report]:
    """Compare the estimate of a step's memory with what it takes, in processes that return freed memory."""
    title = "Estimated and measured memory of a step, float32"
    yield compare(usual_cases(conditions.image_sizes or (512, 1024)), title)


TABLES: dict[str, Callable[[Conditions], Iterator[Report]]] = {
    "attention": attention,
    "operator": operator,
    "backbone": backbone,
    "detector": detector,
    "htc": htc,
    "pretraining": pretraining,
    "memory": memory,
}
