#!/usr/bin/env python
"""The paper's Table 6 and Figure 5 in miniature: every operator, several seeds, the same data and recipe.

Writes table.md and curves.png beside the runs; runs that are finished already are kept.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from lesa_d2.analysis.comparison import (
    comparison_table,
    is_finished,
    mark_finished,
    plot_curves,
    read_runs,
    run_folder,
)
from lesa_d2.engine import is_given
from lesa_d2.engine.run import make_folder
from lesa_d2.errors import LesaError
from lesa_d2.modeling import SLOT_OPERATORS

HERE = Path(__file__).resolve().parent
OWN_KEYS = ("model.backbone.operator", "train.seed", "train.output_dir")
CONFIG = HERE.parents[1] / "configs/quickstart_classifier.py"


def train(args: argparse.Namespace, operator: str, seed: int) -> None:
    """One run in a process of its own, which has its share of the cores."""
    folder = run_folder(args.output, operator, seed)
    command = [sys.executable, str(HERE / "pretrain_imagenet.py"), "--config-file", str(args.config_file)]
    own = dict(zip(OWN_KEYS, (operator, seed, folder), strict=True))
    options = [*args.opts, *(f"{key}={value}" for key, value in own.items())]
    folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    done = subprocess.run(
        [*command, *options],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LesaError(f"{operator}, seed {seed} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    mark_finished(folder)


def keep_settings(args: argparse.Namespace) -> None:
    """Note what the runs in the output folder have in common; LesaError where others are there already."""
    settings = {"config": str(args.config_file.resolve()), "overrides": args.opts}
    file = make_folder(args.output, "--output") / "settings.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
    if found != settings:
        raise LesaError(f"{args.output} holds runs of {found}, not of {settings}; choose another --output")
    file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def train_all(args: argparse.Namespace, wanted: list[tuple[str, int]]) -> None:
    """Every run that is not finished, ``--jobs`` at a time."""
    missing = [pair for pair in wanted if not is_finished(run_folder(args.output, *pair))]
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(train, args, operator, seed) for operator, seed in missing]
        try:
            for run in tqdm(as_completed(runs), total=len(runs), desc="Training", unit="run"):
                run.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--operators", nargs="+", default=list(SLOT_OPERATORS), metavar="OPERATOR")
    parser.add_argument("--seeds", type=int, default=3, help="runs an operator")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; they share the cores")
    parser.add_argument("--config-file", type=Path, default=CONFIG, help="of a classifier")
    parser.add_argument("--output", type=Path, default=Path("output/compare_operators"))
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config, for all runs")
    args = parser.parse_args()
    # argparse gives overrides that follow the operators to them
    args.opts = [*(item for item in args.operators if "=" in item), *args.opts]
    args.operators = [item for item in args.operators if "=" not in item]
    unknown = [item for item in args.operators if item not in SLOT_OPERATORS]
    if unknown or not args.operators:
        parser.error(f"--operators takes some of {', '.join(SLOT_OPERATORS)}, got {unknown or 'none'}")
    taken = [key for key in OWN_KEYS if is_given(key, args.opts)]
    if taken:
        parser.error(f"{', '.join(taken)}: the comparison sets this itself (--operators, --seeds, --output)")
    if args.seeds < 1 or args.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if not args.config_file.is_file():
        parser.error(f"config file {args.config_file} does not exist")
    return args


def main() -> int:
    args = parse_args()
    wanted = [(operator, seed) for seed in range(args.seeds) for operator in args.operators]
    try:
        keep_settings(args)
        train_all(args, wanted)
        runs = [run for run in read_runs(args.output) if (run.operator, run.seed) in wanted]
    except LesaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = comparison_table(runs)
    (args.output / "table.md").write_text(table + "\n", encoding="utf-8")
    curves = plot_curves(runs, args.output / "curves.png")
    print(f"\n{table}\n\nLearning curves: {curves}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
