#!/usr/bin/env python
"""Train a small convolutional classifier of generated shapes, then a Mask R-CNN that starts from it, on two CPU cores.

The operator starts as docs/training.md says under "From a convolution".  Evaluates the detector, draws its predictions,
and writes a table of all runs so far, with --seeds of their means.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

from lesa_d2.quiet import leave_out_known_warnings

leave_out_known_warnings()  # before the libraries are imported

from detectron2.utils import comm

from lesa_d2.config.lazy import override_keys
from lesa_d2.engine import (
    Classification,
    Detection,
    argument_parser,
    launch,
    load_trained,
    run,
)
from lesa_d2.errors import exit_status
from lesa_d2.tools.analysis import RESULT_FILE, RunResult, write_table
from lesa_d2.tools.reports import DetectionReports

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path("output/quickstart")
OPERATORS = ("lesa", "conv", "self_attention")
# What comes after, in steps of the stage that runs, on two cores; the remaining time in the log includes it.
AFTER_CLASSIFIER, AFTER_DETECTOR = 5000, 100


def train_all(args: argparse.Namespace) -> None:
    """Train every seed, and print the table of all runs so far; with ``--resume``, reuse seeds that are complete."""
    if args.seeds == 1:
        train(args, OUTPUT)
    for seed in range(args.seeds) if args.seeds > 1 else ():
        one = copy.deepcopy(args)
        one.opts.append(f"train.seed={seed}")
        folder = OUTPUT / f"seed_{seed}" if seed else OUTPUT
        if not (args.resume and (folder / args.operator / RESULT_FILE).is_file()):
            train(one, folder)
    if comm.is_main_process():
        print(f"\nHeld-out generated images, all runs so far ({OUTPUT / 'table.md'}):\n")
        print(write_table(OUTPUT))
        print(f"\nTruth above, predictions below: {OUTPUT / args.operator / 'predictions.png'}")


def train(args: argparse.Namespace, folder: Path) -> None:
    """Train and evaluate in ``folder``, and write predictions.png, a report and result.json."""
    start = time.perf_counter()
    output = folder / args.operator
    if not (args.from_scratch or args.eval_only or "train.init_checkpoint" in override_keys(args.opts)):
        args.opts.append(f"train.init_checkpoint={pretrain(args, folder)}")
    args.opts.append(f"train.output_dir={output}")
    args.overwrite = not args.resume  # it is the quick start's own folder
    task = Detection(DetectionReports())
    task.later = AFTER_DETECTOR
    results = run(args, task)
    if not comm.is_main_process():
        return
    cfg, model = load_trained(output)
    RunResult(
        name=args.operator,
        parameters=sum(p.numel() for p in model.parameters()),
        iterations=cfg.train.max_iter,
        box_ap=results["bbox"]["AP"],
        box_ap50=results["bbox"]["AP50"],
        mask_ap=results["segm"]["AP"],
        mask_ap50=results["segm"]["AP50"],
        seconds=time.perf_counter() - start,
    ).save(output)


def pretrain(args: argparse.Namespace, folder: Path) -> Path:
    """Train the classifier, and return its weights; with ``--resume``, continue or reuse it."""
    output = folder / "classifier"
    weights = output / "model_final.pth"
    if not (args.resume and weights.is_file()):
        task = Classification()
        task.later = AFTER_CLASSIFIER
        seed = [text for text in args.opts if text.startswith("train.seed=")]
        classification = argument_parser(task).parse_args(
            [
                "--resume" if args.resume else "--overwrite",
                f"--config-file={ROOT / 'configs/quickstart_classifier.py'}",
                "model.backbone.operator=conv",
                f"train.output_dir={output}",
                *seed,
            ]
        )
        run(classification, task)
    return weights


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(Detection())
    parser.prog, parser.description, parser.epilog = "quickstart.py", __doc__, None
    parser.add_argument("--operator", choices=OPERATORS, default="lesa")
    parser.add_argument("--from-scratch", action="store_true", help="leave out the classifier")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train with the seeds 0 to N - 1; default: 1"
    )
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    args.config_file = args.config_file or str(ROOT / f"configs/quickstart_{args.operator}.py")
    keys = override_keys(args.opts)
    if "train.output_dir" in keys:
        parser.error(f"the quick start writes to {OUTPUT}; for another folder use train_net.py")
    if "train.seed" in keys and args.seeds > 1:
        parser.error("give train.seed for one run, or --seeds for several")
    args.opts.insert(0, "train.report.enabled=True")
    return args


if __name__ == "__main__":
    sys.exit(exit_status(lambda: launch(train_all, parse_args())))
