#!/usr/bin/env python
"""Several detectors, several seeds each: box and mask AP with their spread over seeds.

Writes table.md and curves.png beside the runs; runs that are finished already are kept.  Losses of different
detectors are sums of different terms: AP compares detectors, a loss only the seeds of one.
"""

import argparse
import sys
from pathlib import Path

from lesa_d2.tools.analysis.comparison import BOX_AP, MASK_AP
from lesa_d2.tools.analysis.comparison_script import (
    check_config_files,
    comparison_parser,
    parse_comparison,
    run_comparison,
)
from lesa_d2.tools.analysis.repeated_runs import RepeatedRuns

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [str(ROOT / f"configs/quickstart_{name}.py") for name in ("htc", "cascade", "lesa")]


def parse_args() -> argparse.Namespace:
    parser = comparison_parser(__doc__, output="output/compare_detectors")
    parser.add_argument(
        "--config-files", nargs="+", dest="compared", default=CONFIGS, metavar="FILE", help="of detectors"
    )
    args = parse_comparison(parser)
    stems = [Path(file).stem for file in args.compared]
    if not stems or len(set(stems)) < len(stems):
        parser.error(f"--config-files takes files of different names, one or more, got {stems or 'none'}")
    check_config_files(parser, args.compared)
    return args


def main() -> int:
    args = parse_args()
    files = {Path(file).stem: Path(file).resolve() for file in args.compared}
    script = str(ROOT / "train_net.py")
    runs = RepeatedRuns(
        folder=args.output,
        commands={name: [script, "--config-file", str(file), *args.opts] for name, file in files.items()},
        settings={"overrides": args.opts, **{f"config {name}": str(file) for name, file in files.items()}},
        seeds=args.seeds,
        jobs=args.jobs,
    )
    return run_comparison(runs, kind="config", metrics=[BOX_AP, MASK_AP])


if __name__ == "__main__":
    sys.exit(main())
