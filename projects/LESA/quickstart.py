#!/usr/bin/env python
"""Train a small classifier of generated shapes, then a Mask R-CNN that starts from it, on two CPU cores.

Evaluates it, draws its predictions, and writes a table of the operators that were tried.
"""

import argparse
import sys
import time
from pathlib import Path

from lesa_d2.quiet import leave_out_known_warnings

leave_out_known_warnings()  # before the libraries are imported

from detectron2.utils import comm

from lesa_d2.config.lazy import override_keys
from lesa_d2.data.loader import build_loader
from lesa_d2.engine import (
    Classification,
    Detection,
    argument_parser,
    dataset_names,
    launch,
    load_trained,
    run,
)
from lesa_d2.errors import exit_status
from lesa_d2.tools.analysis import RunResult, write_table
from lesa_d2.tools.reports import draw_predictions

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path("output/quickstart")
OPERATORS = ("lesa", "conv", "self_attention")


def train_and_draw(args: argparse.Namespace) -> None:
    """Train and evaluate; write predictions.png and result.json, and the table of all operators so far."""
    start = time.perf_counter()
    if not (args.from_scratch or args.eval_only or "train.init_checkpoint" in override_keys(args.opts)):
        args.opts.append(f"train.init_checkpoint={pretrain(args)}")
    args.overwrite = not args.resume  # it is the quick start's own folder
    results = run(args, Detection())
    seconds = time.perf_counter() - start
    if not comm.is_main_process():
        return
    cfg, model = load_trained(args.output_dir)
    sheet = draw_predictions(
        model,
        build_loader(cfg.dataloader.test),
        dataset_names(cfg.dataloader.test)[0],
        args.output_dir / "predictions.png",
        score_threshold=0.6,
    )
    RunResult(
        name=args.operator,
        parameters=sum(p.numel() for p in model.parameters()),
        iterations=cfg.train.max_iter,
        box_ap=results["bbox"]["AP"],
        box_ap50=results["bbox"]["AP50"],
        mask_ap=results["segm"]["AP"],
        mask_ap50=results["segm"]["AP50"],
        seconds=seconds,
    ).save(args.output_dir)
    print(f"\nHeld-out generated images, all operators so far ({args.output_dir.parent / 'table.md'}):\n")
    print(write_table(args.output_dir.parent))
    print(f"\nTruth above, predictions below: {sheet}")


def pretrain(args: argparse.Namespace) -> Path:
    """Train the classifier with this operator, and return its weights; with ``--resume``, continue or reuse it."""
    folder = args.output_dir.with_name(f"classifier_{args.operator}")
    weights = folder / "model_final.pth"
    if not (args.resume and weights.is_file()):
        classification = argument_parser(Classification()).parse_args(
            [
                "--resume" if args.resume else "--overwrite",
                f"--config-file={ROOT / 'configs/quickstart_classifier.py'}",
                f"model.backbone.operator={args.operator}",
                f"train.output_dir={folder}",
            ]
        )
        run(classification, Classification())
    return weights


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(Detection())
    parser.prog, parser.description, parser.epilog = "quickstart.py", __doc__, None
    parser.add_argument("--operator", choices=OPERATORS, default="lesa")
    parser.add_argument("--from-scratch", action="store_true", help="leave out the classifier")
    args = parser.parse_args()
    args.config_file = args.config_file or str(ROOT / f"configs/quickstart_{args.operator}.py")
    args.output_dir = OUTPUT / args.operator
    args.opts = [f"train.output_dir={args.output_dir}", *args.opts]
    if "train.output_dir" in override_keys(args.opts[1:]):
        parser.error(f"the quick start writes to {OUTPUT}; for another folder use train_net.py")
    return args


if __name__ == "__main__":
    sys.exit(exit_status(lambda: launch(train_and_draw, parse_args())))
