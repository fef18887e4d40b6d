"""``lesa benchmark``: measure what LESA costs on this machine, every variant beside the plain definition.

``lesa benchmark cost --config-file X`` says what a config costs: parameters, FLOPs, and memory at any size.
``lesa benchmark kernels`` compiles the fused kernels for GPUs that need not be here, and reads what they cost.
"""

import argparse
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..config import load_config
from ..config.settings import check_settings
from ..errors import ConfigError
from ..layers.attention.fused import has_triton
from ..tools.benchmark import Report, write_section
from ..tools.benchmark.cost import cost_table, memory_table, section_costs
from ..tools.benchmark.fit import GIB, fit, fit_text, largest_size
from ..tools.benchmark.kernels import ARITHMETIC, CARDS, HEADS, cases, compile_cases, kernels_table
from ..tools.benchmark.memory import MeasuredModel, Setting
from ..tools.benchmark.report import environment, save_json
from ..tools.benchmark.tables import TABLES, Conditions
from . import description

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZED = ("backbone", "detector", "htc", "memory")

EXAMPLES = """
examples:
  lesa benchmark cost --config-file configs/mask_rcnn_lesa_r50.py
  lesa benchmark cost --config-file configs/htc_lesa_dconv_wr50_20e_1280.py --memory 24
  lesa benchmark cost --config-file configs/imagenet_lesa_r50.py --batch 32
"""


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read and check the command line of the tables."""
    parser = argparse.ArgumentParser(
        prog="lesa benchmark",
        description=description(__doc__),
        epilog=tables_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "tables",
        nargs="+",
        choices=[*TABLES],
        metavar="TABLE",
        help="what to measure, one or several of those below",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--dtype", choices=[*DTYPES], default="float32", help="bfloat16 by autocast; default: float32"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="timed runs of each variant; default: 7"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=60,
        metavar="SECONDS",
        help="after which a variant is not repeated; default: 60",
    )
    parser.add_argument(
        "--image-sizes",
        type=int,
        nargs="+",
        metavar="SIDE",
        help="in pixels, for backbone, detector, htc and memory; default: those of BENCHMARKS.md",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single run there")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="Markdown file whose sections to replace; default: none"
    )
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "--device cuda: PyTorch finds no CUDA device here; leave the option out to measure on the CPU"
        )
    _check_folders(parser, args.json, args.report)
    if args.image_sizes and not set(SIZED) & set(args.tables):
        parser.error(
            "--image-sizes is for backbone, detector, htc and memory; attention and operator have fixed sizes"
        )
    if args.rounds < 1 or not args.budget > 0 or any(size < 32 for size in args.image_sizes or ()):
        parser.error("--rounds must be at least 1, --budget positive, --image-sizes at least 32")
    return args


def tables_text() -> str:
    """Return a line for each table, and for the commands of the same name that measure nothing."""
    lines = {name: (table.__doc__ or "").splitlines()[0] for name, table in TABLES.items()}
    lines |= {
        "cost": "Compute parameters, FLOPs and memory of a config; lesa benchmark cost --help.",
        "kernels": "Compile the GPU kernels, read their cost; lesa benchmark kernels --help.",
    }
    return "tables, minutes each; cost and kernels stand alone:\n" + "\n".join(
        f"  {name:<12} {text}" for name, text in lines.items()
    )


def main(arguments: Sequence[str]) -> int:
    """Print the tables that the command line asks for, and return the exit status."""
    if arguments and arguments[0] == "cost":
        print(cost_report(parse_cost_args(arguments[1:])))
        return 0
    if arguments and arguments[0] == "kernels":
        return report_kernels(
            parse_kernels_args(arguments[1:]), shlex.join(["lesa", "benchmark", *arguments])
        )
    args = parse_args(arguments)
    command = shlex.join(["lesa", "benchmark", *arguments])
    where = environment(args.device, args.dtype)
    heading = ", ".join(f"{key} {value}" for key, value in where.items())
    conditions = Conditions(
        args.device, DTYPES[args.dtype], args.rounds, args.budget, tuple(args.image_sizes or ())
    )
    collected: list[Report] = []
    for name in args.tables:
        texts = []
        for report in TABLES[name](conditions):
            collected.append(report)
            texts.append(report.text())
            print(f"\n{texts[-1]}\n", flush=True)
        if args.json:
            save_json(args.json, command, where, collected)
        if args.report:
            section = f"{name}, {args.device}, {args.dtype}"
            write_section(
                args.report, section, "\n\n".join([f"## {section}", f"`{command}`", heading, *texts])
            )
    return 0


def _check_folders(parser: argparse.ArgumentParser, *files: Path | None) -> None:
    """End with a message if a file to be written has no folder: measuring takes long."""
    for file in filter(None, files):
        if not file.parent.is_dir():
            parser.error(f"there is no folder {file.parent} for {file.name}; make it first")


def parse_kernels_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line of ``lesa benchmark kernels``."""
    parser = argparse.ArgumentParser(
        prog="lesa benchmark kernels",
        description="Registers, spills, shared memory, instructions and exponentials of the fused kernels, and the "
        "least time that follows for one image of 1024 px and 8 heads. All of it takes long; what is compiled is kept.",
    )
    capabilities = [card.capability for card in CARDS]
    parser.add_argument(
        "--capabilities", type=int, nargs="+", choices=capabilities, default=capabilities, help="default: all"
    )
    parser.add_argument(
        "--products",
        nargs="+",
        choices=[*ARITHMETIC],
        default=[*ARITHMETIC],
        help="of vectors in half precision, or of float32 in TF32 or exactly (ieee); default: all",
    )
    parser.add_argument(
        "--heads", nargs="+", metavar="DQ/DV", help="key and value channels, such as 16/32; default: all"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="passes that are compiled at a time; default: one for each core"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="Markdown file whose section to replace")
    args = parser.parse_args(arguments)
    shown = {f"{key}/{value}": (key, value) for key, value in HEADS}
    unknown = [head for head in args.heads or () if head not in shown]
    if unknown:
        parser.error(f"--heads takes some of {', '.join(shown)}, got {', '.join(unknown)}")
    args.heads = [shown[head] for head in args.heads or shown]
    _check_folders(parser, args.report)
    return args


def report_kernels(args: argparse.Namespace, command: str) -> int:
    """Print the table of the kernels; return 1 where a limit is broken, else 0.

    Raises:
        ConfigError: Triton is not installed.
    """
    if not has_triton():
        raise ConfigError("lesa benchmark kernels needs Triton: it comes with PyTorch for CUDA on Linux")
    cards = [card for card in CARDS if card.capability in args.capabilities]
    found = compile_cases(cases(cards, args.products, args.heads), args.jobs)
    text = kernels_table(found)
    print(text)
    if args.report:
        write_section(args.report, "kernels", f"## kernels, compiled for GPUs\n\n`{command}`\n\n{text}")
    broken = {case: cost.breaches(case.card) for case, cost in found.items() if cost.breaches(case.card)}
    for case, breaches in broken.items():
        print(f"{case}: {', '.join(breaches)}")
    return int(bool(broken))


def parse_cost_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line of ``lesa benchmark cost``."""
    parser = argparse.ArgumentParser(
        prog="lesa benchmark cost",
        description="Parameters and FLOPs by section, and an estimate of memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a config of configs/, or a saved one"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="in pixels; default: the largest of the config",
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images a step on one device (1)")
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="of the device, in GiB; says what would make it fit"
    )
    parser.add_argument("--mode", choices=("training", "inference"), default="training")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(arguments)


def cost_report(args: argparse.Namespace) -> str:
    """Return the tables as Markdown.

    Raises:
        LesaError: arguments out of range, a config with wrong values, or a model that cannot be run.
    """
    _check(args)
    cfg = load_config(args.config_file, args.opts)
    check_settings(cfg)
    training = args.mode == "training"
    height, width = size = tuple(args.image_size or largest_size(cfg, training))
    setting = Setting(MeasuredModel(cfg, training), size, args.batch, cfg.train.accumulate if training else 1)
    padded = setting.measured.padded(size)
    title = f"{args.config_file}, {args.batch} image(s) of {height}×{width}, {args.mode}"
    if padded != size:
        title += f", padded to {padded[0]}×{padded[1]} as the model does"
    sections = [title, cost_table(section_costs(replace(setting, accumulate=1)))]
    if training:
        sections.append("A training step computes about three times the forward pass.")
    sections.append(memory_table(setting.memory()))
    if args.memory is not None:
        budget = round(args.memory * GIB)
        sections.append(fit_text(fit(setting, budget), budget))
    return "\n\n".join(sections)


def _check(args: argparse.Namespace) -> None:
    if args.batch < 1:
        raise ConfigError(f"--batch must be at least 1, got {args.batch}")
    if args.image_size and min(args.image_size) < 32:
        raise ConfigError(f"--image-size must be at least 32 pixels a side, got {args.image_size}")
    if args.memory is not None and not (args.memory > 0 and math.isfinite(args.memory)):
        raise ConfigError(f"--memory must be a finite, positive number of GiB, got {args.memory:g}")
