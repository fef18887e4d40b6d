"""Training classifiers: the data of a config, the schedule that follows from its size, top-1 and top-5."""

import argparse
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import LazyCall, instantiate
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..config.lazy import is_given
from ..data import ImageRecords, image_folder
from ..errors import ConfigError
from .task import Task
from .values import POSITIVE, Rule, explained, matches, number, or_null, whole

NUM_CLASSES = "model.backbone.num_classes"
NOT_NEGATIVE = number(lambda value: 0 <= value < float("inf"), "a number of at least 0")


class Classification(Task):
    """Classifiers on a folder of pictures a class."""

    rules: ClassVar[dict[str, Rule]] = {
        "dataloader.test.batch_size": whole(1),
        "model.label_smoothing": number(lambda value: 0 <= value < 1, "a number from 0 to below 1"),
        "model.mixup": NOT_NEGATIVE,
        "model.cutmix": NOT_NEGATIVE,
        NUM_CLASSES: explained(whole(1), "of a classifier; train_net.py trains detectors"),
        "train.best_metric": matches(r"accuracy/top[15]", "'accuracy/top1' or 'accuracy/top5'"),
        "train.epochs": or_null(POSITIVE),
    }

    examples = """
examples:
  python projects/LESA/pretrain_imagenet.py --config-file configs/imagenet_lesa_r50.py --data DIR --num-gpus 8
  python projects/LESA/pretrain_imagenet.py --config-file configs/imagenet_lesa_r50.py --data DIR --resume
  python projects/LESA/pretrain_imagenet.py --config-file configs/quickstart_classifier.py
"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--data", metavar="DIR", help="pictures as DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg"
        )

    def use_data(self, cfg: DictConfig, args: argparse.Namespace) -> None:
        if args.data is not None:
            use_image_folder(cfg, args.data)
        if args.eval_only:
            records = image_records(cfg.dataloader.test)
        else:
            records = image_records(cfg.dataloader.train)
            set_schedule(cfg, len(records), given=args.opts)
        if not is_given(NUM_CLASSES, args.opts):
            OmegaConf.update(cfg, NUM_CLASSES, len(records.classes))

    def check_data(self, cfg: DictConfig, eval_only: bool) -> list[str]:
        if not eval_only:
            image_records(cfg.dataloader.train)
        classes = image_records(cfg.dataloader.test).classes
        expected = OmegaConf.select(cfg, NUM_CLASSES)
        if expected != len(classes):
            raise ConfigError(
                f"wrong number of classes: {NUM_CLASSES}={expected}, but the data set has {len(classes)}; "
                f"leave {NUM_CLASSES} out, it follows from the data"
            )
        return classes

    def before_training(self, cfg: DictConfig, args: argparse.Namespace) -> None:
        """Nothing: the schedule is settled, and a folder of pictures a class can be looked at as it is."""


def use_image_folder(cfg: DictConfig, directory: str) -> None:
    """Point a config, in place, at ``directory/train`` and ``directory/val``."""
    for split, loader in (("train", cfg.dataloader.train), ("val", cfg.dataloader.test)):
        loader.dataset = LazyCall(image_folder)(root=os.path.abspath(directory), split=split)


def set_schedule(cfg: DictConfig, num_images: int, given: Sequence[str] = ()) -> None:
    """Iterations from ``train.epochs``, in place; evaluation and checkpoint once an epoch.

    Keys among the ``given`` overrides are kept; with ``train.max_iter`` among them epochs play no part.
    """
    epochs = cfg.train.epochs
    if epochs is None or is_given("train.max_iter", given):
        cfg.train.epochs = None  # the saved config says what happened
        return
    per_epoch = num_images / cfg.dataloader.train.total_batch_size
    cfg.train.max_iter = max(1, round(epochs * per_epoch))
    for key in ("train.eval_period", "train.checkpointer.period"):
        if not is_given(key, given):
            OmegaConf.update(cfg, key, max(1, round(per_epoch)))


def image_records(loader: DictConfig) -> ImageRecords:
    """The pictures of a loader's config.

    Raises:
        DatasetError: they are not there.
        ConfigError: the config describes another kind of data set.
    """
    records = instantiate(loader.dataset)
    if not isinstance(records, ImageRecords):
        raise ConfigError(
            f"the data set of a classifier must be ImageRecords, got {type(records).__name__}; "
            "use lesa_d2.data.image_folder, or --data DIR"
        )
    return records


class TopAccuracy(DatasetEvaluator):
    """Percentage of pictures whose class is the highest logit (top1), or among the five highest (top5)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._hits = torch.zeros(3, dtype=torch.long)  # top1, top5, pictures

    def process(self, inputs: dict[str, Tensor], outputs: Tensor) -> None:
        """inputs["label"] (N,), outputs: logits (N, K)."""
        best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices.cpu()
        hits = best == inputs["label"].cpu()[:, None]
        self._hits += torch.stack([hits[:, 0].sum(), hits.any(1).sum(), torch.tensor(len(hits))])

    def evaluate(self) -> dict[str, Any]:
        """Over all processes; empty but on the main one."""
        gathered = comm.gather(self._hits)
        if not comm.is_main_process():
            return {}
        top1, top5, total = (float(count) for count in sum(gathered))
        accuracy = {"top1": 100 * top1 / max(total, 1), "top5": 100 * top5 / max(total, 1)}
        return OrderedDict(accuracy=accuracy)
