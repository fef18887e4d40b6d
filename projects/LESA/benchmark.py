#!/usr/bin/env python
"""Measure what LESA costs on this machine, as ratios of every variant to the plain definition.

`benchmark.py cost --config-file FILE` computes parameters, FLOP and memory of a config, without running it.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from lesa_d2.tools.benchmark import cases
from lesa_d2.tools.benchmark.cases import Place
from lesa_d2.tools.benchmark.measure import Measurement, Variant, measure
from lesa_d2.tools.benchmark.report import (
    Estimates,
    Growth,
    Report,
    Throughput,
    environment,
    save_json,
    write_section,
)

ROOT = Path(__file__).resolve().parents[2]
PLAIN = "plain formula"
YARDSTICK = "no bias, d=32"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GROWTH_SIDES = (32, 48, 64, 96, 128)  # res4 maps of images of 512 … 2048 px


def attention(args: argparse.Namespace, place: Place) -> Iterator[Report]:
    """Measure one head group of a 1024 px image, then the growth with the side of the image."""
    run = measurer(args)
    yield Report(
        "Attention alone, 8 heads of 16 key and 32 value channels, 64×64 map",
        run(cases.variants_of_attention(64, place)),
        plain="reference",
        yardstick=YARDSTICK,
    )
    yield growth(args, place)


def growth(args: argparse.Namespace, place: Place) -> Report:
    """Measure the fastest backend on maps of increasing sides."""
    variants = [
        Variant(f"{16 * side} px", partial(cases.relative, backend="auto", side=side, place=place))
        for side in GROWTH_SIDES
    ]
    return Growth(
        'Attention, backend "auto", by image side',
        measurer(args)(variants),
        plain=variants[0].name,
        sides=GROWTH_SIDES,
    )


def operator(args: argparse.Namespace, place: Place) -> Iterator[Report]:
    """Measure the binary term and whole operators on res4 at 1024 px, and on the 14×14 maps of ImageNet."""
    run = measurer(args)

    def variant(name: str, **options: object) -> Variant:
        return Variant(name, partial(cases.operator, side=64, place=place, **options))

    binary = dict(operator="lesa", part="binary")
    yardstick = Variant(YARDSTICK, partial(cases.unbiased, side=64, place=place))
    for statistics in ("stored", "batch"):
        variants = [
            variant(PLAIN, backend="reference", statistics=statistics, **binary),
            variant("binary term", statistics=statistics, **binary),
            yardstick,
        ]
        title = f"Binary term, C=256, 64×64 map, norms with {statistics} statistics"
        yield Report(title, run(variants), PLAIN, YARDSTICK)
    variants = [
        variant(PLAIN, operator="lesa", backend="reference"),
        *(variant(name, operator=name) for name in ("lesa", "static_lesa", "self_attention", "conv")),
    ]
    yield Report("Operators, C=256, 64×64 map", run(variants), PLAIN, "conv")
    small = dict(side=14, images=16, positions="flattened", statistics="batch", place=place, **binary)
    variants = [
        Variant(PLAIN, partial(cases.operator, backend="reference", **small)),
        Variant("binary term", partial(cases.operator, **small)),
    ]
    title = "Flattened positions, C=256, 16 images of 14×14, batch statistics"
    yield Report(title, run(variants), PLAIN)


def backbone(args: argparse.Namespace, place: Place) -> Iterator[Report]:
    """Measure R50 with convolutions, self-attention, LESA, and LESA by the plain formula."""

    def variant(name: str, size: int, **options: object) -> Variant:
        return Variant(name, partial(cases.backbone, image_size=size, place=place, **options))

    last = torch.channels_last

    for size in args.image_sizes or (512, 1024):
        variants = [
            variant(PLAIN, size, operator="lesa", backend="reference"),
            *(variant(name, size, operator=name) for name in ("lesa", "self_attention", "conv")),
            *(
                variant(f"{name}, channels_last", size, operator=name, memory_format=last)
                for name in ("lesa", "conv")
            ),
        ]
        title = f"R50 backbone, one image of {size}×{size}, stored statistics"
        yield Report(title, measurer(args)(variants), PLAIN, "conv")


def detector(args: argparse.Namespace, place: Place) -> Iterator[Report]:
    """Measure Mask R-CNN, R50; untrained models give different numbers of proposals, so forward times vary by chance.

    The plain formula is left out: its backbone takes most of the time and memory, see :func:`backbone`.
    """
    for size in args.image_sizes or (1024, 1280):
        variants = [
            Variant(
                name,
                partial(
                    cases.detector,
                    config_file=str(ROOT / f"configs/mask_rcnn_{name}_r50.py"),
                    image_size=size,
                    place=place,
                ),
            )
            for name in ("conv", "sa", "lesa")
        ]
        title = f"Mask R-CNN R50, untrained, one image of {size}×{size}, stem and res2 frozen"
        yield Report(title, measurer(args)(variants), "conv")


def htc(args: argparse.Namespace, place: Place) -> Iterator[Report]:
    """Measure a training step of the paper's largest detector, with and without checkpointed stages."""

    def variant(name: str, size: int, *stages: str) -> Variant:
        file = str(ROOT / "configs/htc_lesa_dconv_wr50_20e_1280.py")
        options = dict(config_file=file, image_size=size, place=place, checkpoint_stages=list(stages))
        return Variant(name, partial(cases.detector, **options))

    for size in args.image_sizes or (1280,):
        plain = "nothing checkpointed"
        variants = [
            variant(plain, size),
            variant("res4 checkpointed", size, "res4"),
            variant("res3, res4, res5 checkpointed", size, "res3", "res4", "res5"),
        ]
        title = (
            f"Hybrid Task Cascade, deformable LESA-WRN50, one image of {size}×{size}, stem and res2 frozen"
        )
        yield Report(title, measurer(args)(variants, modes=("training",)), plain)


def pretraining(args: argparse.Namespace, place: Place) -> Iterator[Report]:
    """Measure images per second: training of R50 classifiers at 224 px, and reading with augmentation alone."""
    from lesa_d2.tools.benchmark import image_training as cases

    images = 16

    def step(name: str) -> Variant:
        file = str(ROOT / f"configs/imagenet_{name}_r50.py")
        return Variant(
            f"training step, {name}",
            partial(cases.classifier, config_file=file, images=images, place=place),
        )

    with tempfile.TemporaryDirectory() as folder:
        read = partial(
            cases.image_loader,
            config_file=str(ROOT / "configs/imagenet_lesa_r50.py"),
            folder=str(cases.photographs(Path(folder))),
            images=images,
        )
        loaders = [Variant(f"reading, {n} worker(s)", partial(read, workers=n)) for n in (0, 1, 2)]
        found = measurer(args)([step("lesa"), step("conv"), *loaders], modes=("training",))
    title = f"Pre-training at 224 px, {images} images a step, JPEGs of 500×375"
    yield Throughput(title, found, plain="training step, lesa", images=images)


def memory(args: argparse.Namespace, place: Place) -> Iterator[Report]:
    """Compare the memory that `cost` estimates with that of a step, in processes that return freed memory."""
    from lesa_d2.tools.benchmark import estimated

    sizes = args.image_sizes or (512, 1024)
    yield Estimates(
        "Estimated and measured memory of a step, one image, float32",
        *estimated.compared(estimated.usual_cases(ROOT / "configs", sizes, place)),
    )


TABLES: dict[str, Callable[[argparse.Namespace, Place], Iterator[Report]]] = {
    "attention": attention,
    "operator": operator,
    "backbone": backbone,
    "detector": detector,
    "htc": htc,
    "pretraining": pretraining,
    "memory": memory,
}


def measurer(args: argparse.Namespace) -> Callable[[list[Variant]], list[Measurement]]:
    """Return :func:`measure` with the settings of the command line."""
    return partial(measure, device=args.device, rounds=args.rounds, budget=args.budget)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=[*TABLES], help="what to measure; minutes each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=[*DTYPES], default="float32")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each variant")
    parser.add_argument(
        "--budget", type=float, default=60, help="seconds after which a variant is not repeated"
    )
    parser.add_argument(
        "--image-sizes", type=int, nargs="+", help="sides in pixels, for backbone, detector, htc and memory"
    )
    parser.add_argument("--json", type=Path, help="file for every single run")
    parser.add_argument("--report", type=Path, help="Markdown file whose sections to replace")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "--device cuda: PyTorch finds no CUDA device here; leave the option out to measure on the CPU"
        )
    for file in filter(None, (args.json, args.report)):
        if not file.parent.is_dir():
            parser.error(f"there is no folder {file.parent} for {file.name}; make it first")
    if args.image_sizes and not {"backbone", "detector", "htc", "memory"} & set(args.tables):
        parser.error(
            "--image-sizes is for backbone, detector, htc and memory; attention and operator have fixed sizes"
        )
    if args.rounds < 1 or not args.budget > 0 or any(size < 32 for size in args.image_sizes or ()):
        parser.error("--rounds must be at least 1, --budget positive, --image-sizes at least 32")
    return args


def main() -> None:
    """Measure, print and write the chosen tables."""
    if sys.argv[1:2] == ["cost"]:
        from lesa_d2.tools.benchmark.cost_script import run_cost_command

        sys.exit(run_cost_command(sys.argv[2:]))
    args = parse_args()
    place = Place(args.device, DTYPES[args.dtype])
    where = environment(args.device, args.dtype)
    command = "python projects/LESA/" + shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    heading = ", ".join(f"{key} {value}" for key, value in where.items())
    collected: list[Report] = []
    for name in args.tables:
        texts = []
        for report in TABLES[name](args, place):
            collected.append(report)
            texts.append(report.text())
            print(f"\n{texts[-1]}\n", flush=True)
        if args.json:
            save_json(args.json, command, where, collected)
        if args.report:
            section = f"{name}, {args.device}, {args.dtype}"
            body = "\n\n".join([f"## {section}", f"`{command}`", heading, *texts])
            write_section(args.report, section, body)


if __name__ == "__main__":
    main()
