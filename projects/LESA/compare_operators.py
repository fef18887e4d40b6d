#!/usr/bin/env python
"""The paper's Table 6 and Figure 5 in miniature: every operator, several seeds, the same data and recipe.

Writes table.md and curves.png beside the runs; runs that are finished already are kept.
"""

import argparse
import sys
from pathlib import Path

from lesa_d2.modeling import SLOT_OPERATORS
from lesa_d2.tools.analysis.comparison import TOP1
from lesa_d2.tools.analysis.comparison_script import (
    RUN_KEYS,
    check_config_files,
    comparison_parser,
    parse_comparison,
    run_comparison,
)
from lesa_d2.tools.analysis.repeated_runs import RepeatedRuns

HERE = Path(__file__).resolve().parent
OPERATOR_KEY = "model.backbone.operator"
CONFIG = HERE.parents[1] / "configs/quickstart_classifier.py"


def parse_args() -> argparse.Namespace:
    parser = comparison_parser(__doc__, output="output/compare_operators")
    parser.add_argument(
        "--operators", nargs="+", dest="compared", default=list(SLOT_OPERATORS), metavar="OPERATOR"
    )
    parser.add_argument("--config-file", type=Path, default=CONFIG, help="of a classifier")
    args = parse_comparison(parser, {OPERATOR_KEY: "--operators", **RUN_KEYS})
    unknown = [item for item in args.compared if item not in SLOT_OPERATORS]
    if unknown or not args.compared:
        parser.error(f"--operators takes some of {', '.join(SLOT_OPERATORS)}, got {unknown or 'none'}")
    check_config_files(parser, [args.config_file])
    return args


def main() -> int:
    args = parse_args()
    command = [str(HERE / "pretrain_imagenet.py"), "--config-file", str(args.config_file), *args.opts]
    runs = RepeatedRuns(
        folder=args.output,
        commands={operator: [*command, f"{OPERATOR_KEY}={operator}"] for operator in args.compared},
        settings={"config": str(args.config_file.resolve()), "overrides": args.opts},
        seeds=args.seeds,
        jobs=args.jobs,
    )
    return run_comparison(runs, kind="operator", metrics=[TOP1])


if __name__ == "__main__":
    sys.exit(main())
