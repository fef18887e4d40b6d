#!/usr/bin/env python
"""What LESA costs on this machine: every variant beside the plain definition, as ratios.

`benchmark.py cost --config-file FILE` says what a config costs: parameters, FLOPs, and memory at any size.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lesa_d2.tools.benchmark import cases
from lesa_d2.tools.benchmark.measure import Measurement, Variant, measure
from lesa_d2.tools.benchmark.report import (
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


def attention(args: argparse.Namespace) -> Iterator[Report]:
    """One head group of a 1024 px image, then growth with the side of the image."""
    run = measurer(args)
    yield Report(
        "Attention alone, 8 heads of 16 key and 32 value channels, 64×64 map",
        run(cases.variants_of_attention(64, **device_and_dtype(args))),
        plain="reference",
        yardstick=YARDSTICK,
    )
    yield growth(args)


def growth(args: argparse.Namespace) -> Report:
    """The fastest backend on maps of growing side."""
    variants = [
        Variant(
            f"{16 * side} px", partial(cases.relative, backend="auto", side=side, **device_and_dtype(args))
        )
        for side in GROWTH_SIDES
    ]
    return Growth(
        'Attention, backend "auto", by image side',
        measurer(args)(variants),
        plain=variants[0].name,
        sides=GROWTH_SIDES,
    )


def operator(args: argparse.Namespace) -> Iterator[Report]:
    """The binary term and whole operators of res4 at 1024 px, and of ImageNet's 14×14 maps."""
    run = measurer(args)

    def variant(name: str, **options: object) -> Variant:
        return Variant(name, partial(cases.operator, side=64, **device_and_dtype(args), **options))

    binary = dict(operator="lesa", section="binary")
    yardstick = Variant(YARDSTICK, partial(cases.unbiased, side=64, **device_and_dtype(args)))
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
        side=14, images=16, positions="flattened", statistics="batch", **device_and_dtype(args), **binary
    )
    variants = [
        Variant(PLAIN, partial(cases.operator, backend=cases.DEFINITION, **small)),
        Variant("binary term", partial(cases.operator, **small)),
    ]
    title = "Flattened positions, C=256, 16 images of 14×14, batch statistics"
    yield Report(title, run(variants), PLAIN)


def backbone(args: argparse.Namespace) -> Iterator[Report]:
    """R50 with its convolutions, self-attention, LESA, and LESA by the plain formula."""

    def variant(name: str, size: int, **options: object) -> Variant:
        return Variant(name, partial(cases.backbone, image_size=size, **device_and_dtype(args), **options))

    last = torch.channels_last

    for size in args.image_sizes or (512, 1024):
        variants = [
            variant(PLAIN, size, operator="lesa", backend=cases.DEFINITION),
            *(variant(name, size, operator=name) for name in ("lesa", "self_attention", "conv")),
            *(
                variant(f"{name}, channels_last", size, operator=name, memory_format=last)
                for name in ("lesa", "conv")
            ),
        ]
        title = f"R50 backbone, one image of {size}×{size}, stored statistics"
        yield Report(title, measurer(args)(variants), PLAIN, "conv")


def detector(args: argparse.Namespace) -> Iterator[Report]:
    """Mask R-CNN, R50; untrained ones find different numbers of proposals, so forward times differ by chance.

    The plain formula is left out: its backbone alone takes most of the time and memory, see there.
    """
    for size in args.image_sizes or (1024, 1280):
        variants = [
            Variant(
                name,
                partial(
                    cases.detector,
                    config_file=str(ROOT / f"configs/mask_rcnn_{name}_r50.py"),
                    image_size=size,
                    **device_and_dtype(args),
                ),
            )
            for name in ("conv", "sa", "lesa")
        ]
        title = f"Mask R-CNN R50, untrained, one image of {size}×{size}, stem and res2 frozen"
        yield Report(title, measurer(args)(variants), "conv")


def htc(args: argparse.Namespace) -> Iterator[Report]:
    """A training step of the paper's largest detector, with and without checkpointed stages."""

    def variant(name: str, size: int, *stages: str) -> Variant:
        file = str(ROOT / "configs/htc_lesa_dconv_wr50_20e_1280.py")
        options = dict(
            config_file=file, image_size=size, **device_and_dtype(args), checkpoint_stages=list(stages)
        )
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


def pretraining(args: argparse.Namespace) -> Iterator[Report]:
    """Pictures a second: training R50 classifiers at 224 px against reading and augmenting JPEGs alone."""
    from lesa_d2.tools.benchmark.image_training import image_loader, photographs

    images = 16

    def step(name: str) -> Variant:
        file = str(ROOT / f"configs/imagenet_{name}_r50.py")
        return Variant(
            f"training step, {name}",
            partial(
                cases.config_step,
                config_file=file,
                images=images,
                image_size=224,
                **device_and_dtype(args),
            ),
        )

    with tempfile.TemporaryDirectory() as folder:
        read = partial(
            image_loader,
            config_file=str(ROOT / "configs/imagenet_lesa_r50.py"),
            folder=str(photographs(Path(folder))),
            images=images,
        )
        loaders = [Variant(f"reading, {n} worker(s)", partial(read, workers=n)) for n in (0, 1, 2)]
        found = measurer(args)([step("lesa"), step("conv"), *loaders], modes=("training",))
    title = f"Pre-training at 224 px, {images} images a step, JPEGs of 500×375"
    yield Throughput(title, found, plain="training step, lesa", images=images)


def memory(args: argparse.Namespace) -> Iterator[Report]:
    """Compare what the command `cost` estimates with what a step takes, in processes that return freed memory."""
    from lesa_d2.tools.benchmark.estimates import compare, usual_cases

    title = "Estimated and measured memory of a step, float32"
    yield compare(usual_cases(args.image_sizes or (512, 1024)), title)


TABLES: dict[str, Callable[[argparse.Namespace], Iterator[Report]]] = {
    "attention": attention,
    "operator": operator,
    "backbone": backbone,
    "detector": detector,
    "htc": htc,
    "pretraining": pretraining,
    "memory": memory,
}


def device_and_dtype(args: argparse.Namespace) -> dict[str, Any]:
    """Return what every case takes."""
    return {"device": args.device, "dtype": DTYPES[args.dtype]}


def measurer(args: argparse.Namespace) -> Callable[[list[Variant]], list[Measurement]]:
    """:func:`measure` with the command line's settings."""
    return partial(measure, device=args.device, rounds=args.rounds, budget=args.budget)


def parse_args() -> argparse.Namespace:
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
    if sys.argv[1:2] == ["cost"]:
        from lesa_d2.tools.benchmark.cost_script import run_cost_command

        sys.exit(run_cost_command(sys.argv[2:]))
    args = parse_args()
    where = environment(args.device, args.dtype)
    command = "python projects/LESA/" + shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    heading = ", ".join(f"{key} {value}" for key, value in where.items())
    collected: list[Report] = []
    for name in args.tables:
        texts = []
        for report in TABLES[name](args):
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
