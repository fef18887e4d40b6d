#!/usr/bin/env python
"""The paper's Table 6 and Figure 5 in miniature: every operator, several seeds, the same data and recipe.

Writes table.md and curves.png beside the runs; runs that are finished already are kept.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from lesa_d2.analysis.comparison import comparison_table, is_finished, plot_curves, read_runs, run_folder
from lesa_d2.errors import LesaError
from lesa_d2.modeling import SLOT_OPERATORS

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parents[1] / "configs/quickstart_classifier.py"


def train(args: argparse.Namespace, operator: str, seed: int) -> None:
    """One run in a process of its own, which has its share of the cores."""
    folder = run_folder(args.output, operator, seed)
    command = [sys.executable, str(HERE / "pretrain_imagenet.py"), "--config-file", str(args.config_file)]
    options = [
        f"model.backbone.operator={operator}",
        f"train.seed={seed}",
        f"train.output_dir={folder}",
        *args.opts,
    ]
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


def train_all(args: argparse.Namespace) -> None:
    """Every run that is not finished, ``--jobs`` at a time; runs of one seed stand together."""
    wanted = [(operator, seed) for seed in range(args.seeds) for operator in args.operators]
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
    parser.add_argument("--operators", nargs="+", choices=SLOT_OPERATORS, default=list(SLOT_OPERATORS))
    parser.add_argument("--seeds", type=int, default=3, help="runs an operator")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; they share the cores")
    parser.add_argument("--config-file", type=Path, default=CONFIG, help="of a classifier")
    parser.add_argument("--output", type=Path, default=Path("output/compare_operators"))
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config, for all runs")
    args = parser.parse_args()
    if args.seeds < 1 or args.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if not args.config_file.is_file():
        parser.error(f"config file {args.config_file} does not exist")
    return args


def main() -> int:
    args = parse_args()
    try:
        train_all(args)
        runs = read_runs(args.output)
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
