#!/usr/bin/env python
"""Train a small Mask R-CNN on generated shapes, evaluate it, draw what it sees, tabulate the operators."""

import argparse
import sys
import time
from pathlib import Path

from detectron2.config import instantiate
from detectron2.utils import comm

from lesa_d2.analysis import RunResult, draw_predictions, write_table
from lesa_d2.engine import (
    Detection,
    argument_parser,
    dataset_names,
    is_given,
    launch,
    load_trained,
    main,
)

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path("output/quickstart")
OPERATORS = ("lesa", "conv", "self_attention")


def run(args: argparse.Namespace) -> None:
    """Train and evaluate; write predictions.png and result.json, and the table of all operators so far."""
    start = time.perf_counter()
    results = main(args, Detection())
    seconds = time.perf_counter() - start
    if not comm.is_main_process():
        return
    cfg, model = load_trained(args.output_dir)
    sheet = draw_predictions(
        model,
        instantiate(cfg.dataloader.test),
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


def parse_args() -> argparse.Namespace:
    parser = argument_parser(Detection())
    parser.description = __doc__
    parser.add_argument("--operator", choices=OPERATORS, default="lesa")
    args = parser.parse_args()
    args.config_file = args.config_file or str(ROOT / f"configs/quickstart_{args.operator}.py")
    args.output_dir = OUTPUT / args.operator
    args.opts = [f"train.output_dir={args.output_dir}", *args.opts]
    if is_given("train.output_dir", args.opts[1:]):
        parser.error(f"the quick start writes to {OUTPUT}; for another folder use train_net.py")
    return args


if __name__ == "__main__":
    sys.exit(launch(run, parse_args()))
