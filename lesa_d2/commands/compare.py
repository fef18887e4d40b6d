"""``lesa compare``: train several operators or detectors, each with several seeds, and show the spread.

``lesa compare operators`` repeats the paper's Table 6 and Figure 5 at a small size; ``lesa compare detectors`` reports
box and mask AP.  Both write table.md and curves.png into the folder of the runs; runs that are finished already are
kept.  Losses of different detectors are sums of different terms: compare detectors by AP, and losses only between
the seeds of one detector.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config.lazy import config_path, override_keys
from ..engine import separate_overrides
from ..modeling import operator_names
from ..storage import write_text
from ..tools.analysis.comparison import (
    BOX_AP,
    MASK_AP,
    TOP1,
    Metric,
    comparison_table,
    evaluated,
    plot_curves,
    read_runs,
)
from ..tools.analysis.repeated_runs import RepeatedRuns
from . import description

OPERATOR_KEY = "model.backbone.operator"
RUN_KEYS = {"train.seed": "--seeds", "train.output_dir": "--output"}
DETECTORS = ("quickstart_htc", "quickstart_cascade", "quickstart_lesa")


def main(arguments: Sequence[str]) -> int:
    """Train what is missing, write table and curves, and return the exit status."""
    parser = argparse.ArgumentParser(prog="lesa compare", description=description(__doc__))
    kinds = parser.add_subparsers(dest="kind", required=True)
    operators = _add_parser(kinds, "operators")
    operators.add_argument(
        "--operators",
        nargs="+",
        dest="compared",
        default=operator_names(),
        metavar="OPERATOR",
        help=f"default: {' '.join(operator_names())}",
    )
    config = "quickstart_classifier"
    operators.add_argument("--config-file", metavar="FILE", default=config, help=f"default: {config}")
    detectors = _add_parser(kinds, "detectors")
    detectors.add_argument(
        "--config-files",
        nargs="+",
        dest="compared",
        default=list(DETECTORS),
        metavar="FILE",
        help=f"default: {' '.join(DETECTORS)}",
    )
    args = parser.parse_args(arguments)
    return (
        _compare_operators(args, operators)
        if args.kind == "operators"
        else _compare_detectors(args, detectors)
    )


def _add_parser(kinds: argparse._SubParsersAction, name: str) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each; default: 3")
    parser.add_argument(
        "--jobs", type=int, default=2, help="runs at a time, which share the cores; default: 2"
    )
    folder = f"output/compare_{name}"
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(folder),
        metavar="DIR",
        help=f"folder of the runs; default: {folder}",
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config, for all runs")
    return parser


def _compare_operators(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _check(args, parser, {OPERATOR_KEY: "--operators", **RUN_KEYS})
    unknown = [item for item in args.compared if item not in operator_names()]
    if unknown or not args.compared:
        parser.error(f"--operators takes some of {', '.join(operator_names())}, got {unknown or 'none'}")
    file = Path(config_path(args.config_file)).resolve()
    command = ["pretrain", "--config-file", str(file), *args.opts]
    runs = RepeatedRuns(
        folder=args.output,
        commands={operator: [*command, f"{OPERATOR_KEY}={operator}"] for operator in args.compared},
        settings={"config": str(file), "overrides": args.opts},
        seeds=args.seeds,
        jobs=args.jobs,
    )
    return _train_and_show(runs, "operator", [TOP1])


def _compare_detectors(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _check(args, parser, RUN_KEYS)
    stems = [Path(file).stem for file in args.compared]
    if not stems or len(set(stems)) < len(stems):
        parser.error(f"--config-files takes files of different names, one or more, got {stems or 'none'}")
    files = {Path(file).stem: Path(config_path(file)).resolve() for file in args.compared}
    runs = RepeatedRuns(
        folder=args.output,
        commands={name: ["train", "--config-file", str(file), *args.opts] for name, file in files.items()},
        settings={"overrides": args.opts, **{f"config {name}": str(file) for name, file in files.items()}},
        seeds=args.seeds,
        jobs=args.jobs,
    )
    return _train_and_show(runs, "config", [BOX_AP, MASK_AP])


def _check(args: argparse.Namespace, parser: argparse.ArgumentParser, own_keys: Mapping[str, str]) -> None:
    """Check the arguments of both comparisons; ``own_keys`` maps keys that the comparison sets to their options."""
    separate_overrides(args, args.compared)
    taken = [key for key in own_keys if key in override_keys(args.opts)]
    if taken:
        options = ", ".join(own_keys[key] for key in taken)
        parser.error(f"{', '.join(taken)}: the comparison sets this itself ({options})")
    if args.seeds < 1 or args.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")


def _train_and_show(runs: RepeatedRuns, kind: str, metrics: Sequence[Metric]) -> int:
    """Train the missing runs, and write table.md and curves.png; the rows are sorted by the last metric."""
    runs.keep_settings()
    runs.train()
    compared = [run for run in read_runs(runs.folder) if (run.name, run.seed) in runs.wanted()]
    metrics = evaluated(compared, metrics)
    table = comparison_table(compared, kind, metrics)
    write_text(runs.folder / "table.md", table + "\n")
    curves = plot_curves(compared, metrics[-1], runs.folder / "curves.png")
    print(f"\n{table}\n\nLearning curves: {curves}")
    return 0
