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

from lesa_d2.config import load_config
from lesa_d2.config.lazy import override_keys
from lesa_d2.engine import (
    Classification,
    Detection,
    argument_parser,
    launch,
    load_trained,
    run,
)
from lesa_d2.errors import LesaError, exit_status
from lesa_d2.tools.analysis import RESULT_FILE, RunResult, read_result, write_table
from lesa_d2.tools.reports import DetectionReports

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path("output/quickstart")
OPERATORS = ("lesa", "conv", "self_attention")
# Of a detector's step, and of its evaluation: times in steps of the classifier, on two cores, for the remaining time.
DETECTOR_STEP, EVALUATION = 3.7, 300


def train_all(args: argparse.Namespace) -> None:
    """Train every seed that is not complete, and print the table of all runs so far."""
    for seed in range(args.seeds):
        one = copy.deepcopy(args)
        if args.seeds > 1:
            one.opts.append(f"train.seed={seed}")
        folder = OUTPUT / f"seed_{seed}" if seed else OUTPUT
        if not (args.seeds > 1 and args.resume and is_complete(folder / args.operator, args.name)):
            train(one, folder, seeds_left=args.seeds - seed - 1)
    if comm.is_main_process() and not args.eval_only:
        print(f"\nHeld-out generated images, all runs so far ({OUTPUT / 'table.md'}):\n")
        print(write_table(OUTPUT))
        sheet = OUTPUT / args.operator / "predictions.png"
        if sheet.is_file():
            print(f"\nTruth above, predictions below: {sheet}")


def is_complete(folder: Path, name: str) -> bool:
    """Return whether ``folder`` has the result of a run of this name; every process gets the main process's answer.

    Raises:
        LesaError: it has the result of another run, which would be continued.
    """
    file = folder / RESULT_FILE
    found = read_result(file).name if file.is_file() else None
    found = comm.all_gather(found)[0]
    if found not in (None, name):
        raise LesaError(
            f"{folder} holds a run of {found}, not of {name}; without --resume it is trained anew"
        )
    return found == name


def train(args: argparse.Namespace, folder: Path, seeds_left: int) -> None:
    """Train and evaluate in ``folder``, and write the report with predictions.png, and result.json."""
    start = time.perf_counter()
    output = folder / args.operator
    if not (args.resume or args.eval_only) and comm.is_main_process():
        (output / RESULT_FILE).unlink(missing_ok=True)
    weights = pretrain(args, folder, seeds_left) if args.has_classifier else ""
    args.opts += [f"train.init_checkpoint={weights}"] * bool(weights) + [f"train.output_dir={output}"]
    args.overwrite = not args.resume  # it is the quick start's own folder
    task = Detection(DetectionReports())
    task.later = round((EVALUATION + seeds_left * sum(times(args))) / DETECTOR_STEP)
    results = run(args, task)
    if args.eval_only or not comm.is_main_process():
        return
    cfg, model = load_trained(output)
    RunResult(
        name=args.name,
        parameters=sum(p.numel() for p in model.parameters()),
        iterations=cfg.train.max_iter,
        box_ap=results["bbox"]["AP"],
        box_ap50=results["bbox"]["AP50"],
        mask_ap=results["segm"]["AP"],
        mask_ap50=results["segm"]["AP50"],
        seconds=time.perf_counter() - start,
    ).save(output)


def times(args: argparse.Namespace) -> tuple[float, float]:
    """Return the time of the classifier's training and of all of the detector's, in steps of the classifier."""
    files = (ROOT / "configs/quickstart_classifier.py", args.config_file)
    classifier, detector = (load_config(str(file)).train.max_iter for file in files)
    return classifier, detector * DETECTOR_STEP + EVALUATION


def pretrain(args: argparse.Namespace, folder: Path, seeds_left: int) -> Path:
    """Train the classifier, and return its weights; with ``--resume``, continue or reuse it."""
    output = folder / "classifier"
    weights = output / "model_final.pth"
    if not (args.resume and weights.is_file()):
        task = Classification()
        task.later = round(times(args)[1] + seeds_left * sum(times(args)))
        classification = argument_parser(task).parse_args(
            [
                "--resume" if args.resume else "--overwrite",
                f"--config-file={ROOT / 'configs/quickstart_classifier.py'}",
                "model.backbone.operator=conv",
                f"train.output_dir={output}",
                *(text for text in args.opts if override_keys([text]) == {"train.seed"}),
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
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="repeat it with the seeds 0 to N - 1; without, train once",
    )
    args = parser.parse_args()
    keys = override_keys(args.opts)
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    if "train.output_dir" in keys:
        parser.error(f"the quick start writes to {OUTPUT}; for another folder use train_net.py")
    if args.seeds > 1 and (args.eval_only or "train.seed" in keys):
        parser.error("--seeds trains several seeds: it takes neither --eval-only nor train.seed")
    own = [
        *(["from scratch"] if args.from_scratch else []),
        *([args.config_file] if args.config_file else []),
        *args.opts,
    ]
    args.name = args.operator + (f" ({', '.join(own)})" if own else "")
    args.config_file = args.config_file or str(ROOT / f"configs/quickstart_{args.operator}.py")
    args.has_classifier = not (args.from_scratch or args.eval_only or "train.init_checkpoint" in keys)
    args.opts.insert(0, "train.report.enabled=True")
    return args


if __name__ == "__main__":
    sys.exit(exit_status(lambda: launch(train_all, parse_args())))
