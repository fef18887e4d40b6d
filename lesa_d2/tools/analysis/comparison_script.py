"""What the scripts that compare trainings share: their options, and what they do."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ...engine import is_given
from ...errors import LesaError
from .comparison import Metric, comparison_table, evaluated, plot_curves, read_runs
from .repeated_runs import RepeatedRuns

RUN_KEYS = {"train.seed": "--seeds", "train.output_dir": "--output"}


def comparison_parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """Every comparison's options; the script adds what it compares, as a list named ``compared``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; they share the cores")
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config, for all runs")
    return parser


def parse_comparison(
    parser: argparse.ArgumentParser,
    own_keys: Mapping[str, str] = RUN_KEYS,
    arguments: Sequence[str] | None = None,
) -> argparse.Namespace:
    """The ``arguments`` (default: the program's), checked as far as the comparisons have them in common.

    Args:
        parser: of :func:`comparison_parser`.
        own_keys: config keys that the comparison sets, with the options that say to what.
    """
    args = parser.parse_args(arguments)
    # argparse gives overrides that follow a list to it
    args.opts = [*(item for item in args.compared if "=" in item), *args.opts]
    args.compared = [item for item in args.compared if "=" not in item]
    taken = [key for key in own_keys if is_given(key, args.opts)]
    if taken:
        options = ", ".join(own_keys[key] for key in taken)
        parser.error(f"{', '.join(taken)}: the comparison sets this itself ({options})")
    if args.seeds < 1 or args.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    return args


def check_config_files(parser: argparse.ArgumentParser, files: Iterable[str | Path]) -> None:
    """A usage error where one of the files does not exist."""
    for file in files:
        if not Path(file).is_file():
            parser.error(f"config file {file} does not exist")


def run_comparison(runs: RepeatedRuns, kind: str, metrics: Sequence[Metric]) -> int:
    """Train what is missing, write table.md and curves.png; returns the exit status.

    Args:
        runs: what is compared.
        kind: what their names are of.
        metrics: what they are evaluated by; the last ranks them.
    """
    try:
        runs.keep_settings()
        runs.train()
        compared = [run for run in read_runs(runs.folder) if (run.name, run.seed) in runs.wanted()]
        metrics = evaluated(compared, metrics)
    except LesaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = comparison_table(compared, kind, metrics)
    (runs.folder / "table.md").write_text(table + "\n", encoding="utf-8")
    curves = plot_curves(compared, metrics[-1], runs.folder / "curves.png")
    print(f"\n{table}\n\nLearning curves: {curves}")
    return 0
