"""``lesa predict``: write predictions for any number of pictures as COCO results, by one or several processes."""

import argparse
import os
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..config import load_any_config
from ..config.lazy import config_path
from ..data.pictures import PictureError, read_picture
from ..engine import launch, separate_overrides
from ..engine.folder import make_folder
from ..engine.processes import on_main_process, wait_for_all
from ..errors import LesaError
from ..predictor import Predictor
from ..tools.demo.panels import find_weights
from ..tools.predictions import Job, Shard, read_inputs
from ..tools.predictions.job import IMAGES, PREDICTIONS, SHARDS, UNREADABLE, digest, read_remaining
from . import description

EXAMPLES = f"""
examples:
  lesa predict --config-file RUN/config.yaml --input photos/ --output predicted
  lesa predict --config-file RUN/config.yaml --input annotations/instances_val2017.json \\
      --image-root val2017 --output predicted --num-gpus 8
  torchrun --standalone --nproc-per-node 2 -m lesa_d2.cli predict \\
      --config-file RUN/config.yaml --input list.txt --output predicted

The same command continues a run that has ended early, with any number of processes.  The folder of --output then holds
{PREDICTIONS} (COCO results) and {IMAGES} (their images and categories).  Exit status: 0 all pictures have
predictions, 2 an error, or some cannot be read ({UNREADABLE} names them; the same command tries these again).
"""
NAMED = 10  # unreadable pictures in the message


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for, and return the exit status."""
    return launch(run, parse_args(arguments))


def run(args: argparse.Namespace) -> None:
    """Predict in this process, which may be one of several.

    Raises:
        LesaError: config, weights or input cannot be used, or some pictures cannot be read.
    """
    make_folder(args.output, "--output")
    cfg = load_any_config(args.config_file, args.opts)
    weights = args.weights or find_weights(args.config_file, cfg)
    predictor = Predictor(cfg, weights, args.device, args.amp, args.batch_size)
    job = on_main_process(partial(start, args, predictor))
    predict(args, predictor, read_remaining(args.output))
    wait_for_all()
    if job is not None:
        finish(job)


def start(args: argparse.Namespace, predictor: Predictor) -> Job:
    """Find out what is to be done.

    Raises:
        LesaError: the input cannot be used, or the folder holds other predictions.
    """
    inputs = read_inputs(args.input, args.image_root)
    config = Path(config_path(args.config_file))
    model = {
        "config_file": str(config.resolve()),
        "config_sha256": digest(config),
        "overrides": list(args.opts),
        "weights_sha256": digest(PathManager.get_local_path(predictor.weights)) if predictor.weights else "",
        "amp": args.amp,
    }
    job = Job(args.output, inputs, inputs.categories_of(predictor.class_names), model)
    remaining = job.start(args.overwrite)
    total = len(inputs.files)
    print(
        f"{total:,} pictures, {total - len(remaining):,} of them done before; weights {predictor.describe_weights()}"
    )
    return job


def predict(args: argparse.Namespace, predictor: Predictor, files: Sequence[str]) -> None:
    """Write the predictions for the share of this process.

    Raises:
        LesaError: the model finds no objects, or another process writes to the same files.
    """
    if not files:
        return
    sampler = InferenceSampler(len(files))
    loader = DataLoader(
        Pictures(files),
        sampler=sampler,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=args.num_workers if len(sampler) else 0,
    )
    shard = Shard(args.output / SHARDS, comm.get_rank())
    try:
        shown = tqdm(loader, "images", len(sampler), unit="image", disable=not comm.is_main_process())
        for line in lines(predictor, shown):
            shard.write(line)
    finally:
        shard.close()


def lines(predictor: Predictor, pictures: Iterator[tuple[str, np.ndarray | str]]) -> Iterator[dict[str, Any]]:
    """Yield a line of a shard for each picture; as many pictures are held as the predictor's batch has."""
    errors: deque[dict[str, Any]] = deque()
    predicted: deque[dict[str, Any]] = deque()

    def readable() -> Iterator[np.ndarray]:
        for file, picture in pictures:
            if isinstance(picture, str):
                errors.append({"file": file, "error": picture})
            else:
                height, width = picture.shape[:2]
                predicted.append({"file": file, "width": width, "height": height})
                yield picture

    for output in predictor.stream(readable()):
        while errors:
            yield errors.popleft()
        if "instances" not in output:
            raise LesaError(
                "lesa predict writes objects, and this model labels pixels alone; lesa demo draws them"
            )
        results = instances_to_coco_json(output["instances"].to("cpu"), img_id=None)
        yield {**predicted.popleft(), "results": results}
    yield from errors


class Pictures(Dataset[tuple[str, "np.ndarray | str"]]):
    """Read files as (file, (H, W, 3) uint8 in BGR order), or (file, reason) where that is impossible."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files

    def __getitem__(self, index: int) -> tuple[str, np.ndarray | str]:
        """Read one file."""
        file = self.files[index]
        try:
            return file, read_picture(file, "BGR")
        except PictureError as error:
            return file, str(error).encode(errors="backslashreplace").decode()  # names may not be UTF-8


def _as_it_is(item: Any) -> Any:
    return item


def finish(job: Job) -> None:
    """Write the results, and print where they are.

    Raises:
        LesaError: some pictures cannot be read; named.
    """
    errors = job.finish()
    print(f"Predictions: {job.folder / PREDICTIONS}; their images and categories: {job.folder / IMAGES}")
    if errors:
        total, unread = len(job.inputs.files), len(errors)
        more = f"\n  … and {unread - NAMED} more" if unread > NAMED else ""
        named = "\n  ".join(list(errors.values())[:NAMED])
        among = " (torchrun calls this exit status a failure)" if "TORCHELASTIC_RUN_ID" in os.environ else ""
        raise LesaError(
            f"{unread} of {total} pictures cannot be read and were left out; the predictions of the other "
            f"{total - unread} are complete. {job.folder / UNREADABLE} names those left out, and the same command "
            f"tries them again{among}:\n  {named}{more}"
        )


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="lesa predict",
        description=description(__doc__),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--config-file",
        required=True,
        metavar="FILE",
        help="LazyConfig or yacs; a run's is in its output folder",
    )
    add("--weights", metavar="FILE", help="a checkpoint; default: the run's last")
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="pictures, folders, quoted patterns; or a list (.txt, a name in each line); or a COCO file (.json)",
    )
    add(
        "--image-root", metavar="DIR", help="folder of the names in a list or COCO file; default: that file's"
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    add("--overwrite", action="store_true", help="begin anew in a folder that holds predictions")
    add("--num-gpus", type=int, default=1, metavar="N", help="one process for each; default: 1")
    add("--batch-size", type=int, default=1, metavar="N", help="pictures of one size at once; default: 1")
    add("--num-workers", type=int, default=2, metavar="N", help="processes that read pictures; default: 2")
    add("--device", help="cuda or cpu; default: the config's, or the CPU where there is no GPU")
    add("--amp", choices=("bfloat16", "float16"), help="mixed precision")
    add("opts", nargs="*", default=[], metavar="key=value", help="overrides of the config")
    parser.set_defaults(num_machines=1, machine_rank=0, dist_url="auto")
    args = parser.parse_args(arguments)
    separate_overrides(args, args.input)
    if not args.input:
        parser.error("--input names no picture")
    if args.num_workers < 0:
        parser.error(f"--num-workers must be at least 0, got {args.num_workers}")
    return args
