"""Training of classifiers: the data of a config, and the schedule for their size."""

import argparse
import os
from collections.abc import Iterator, Sequence

from detectron2.config import LazyCall
from omegaconf import DictConfig

from ..config.lazy import target
from ..data import IMAGE_CLASSES, ImageRecords, image_folder, shape_images
from ..data.images import describe_images
from ..errors import ConfigError, DatasetError
from ..modeling.build import instantiate_part
from .classes import class_count, set_class_count
from .detection import described_names
from .task import Derivation, Task, register_task

NUM_CLASSES = "model.backbone.num_classes"
IMAGENET_CLASSES = 1000


@register_task
class Classification(Task):
    """Train classifiers on a folder of pictures for each class."""

    name = "classification"
    pictures = ""  # how many each part has, for the start report
    command = "lesa pretrain"
    trains = "a classifier on folders of pictures, one for each class"

    examples = """
examples:
  lesa pretrain --config-file configs/imagenet_lesa_r50.py --data DIR --num-gpus 8
  lesa pretrain --config-file configs/imagenet_lesa_r50.py --data DIR --resume
  lesa pretrain --config-file configs/quickstart_classifier.py
"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the option ``--data``."""
        parser.add_argument(
            "--data", metavar="DIR", help="pictures as DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg"
        )

    def derivations(self, written: DictConfig, args: argparse.Namespace) -> Sequence[Derivation]:
        """Return the steps that derive from the pictures their folder, the classes, and iterations from epochs."""

        def use_data(cfg: DictConfig) -> None:
            own = own_class_count(cfg.dataloader.test)
            if args.data is not None:
                use_image_folder(cfg, args.data)
            loader = cfg.dataloader.test if args.eval_only else cfg.dataloader.train
            classes = image_records(loader).classes
            data = f"{args.data} (--data)" if args.data else "the data set"
            set_class_count(cfg, NUM_CLASSES, classes, data, own, self.notes)

        def iterations(cfg: DictConfig) -> None:
            if cfg.train.epochs is not None:
                self.notes.append(set_schedule(cfg, len(image_records(cfg.dataloader.train))))

        return [use_data] if args.eval_only else [use_data, iterations]

    def check_data(self, cfg: DictConfig, eval_only: bool) -> None:
        """Check that the pictures exist, and have as many classes as the model.

        Raises:
            ConfigError: the numbers of classes differ, or ``train.best_metric`` is not one of classifiers.
            DatasetError: there are no pictures.
        """
        if cfg.train.best_metric and not cfg.train.best_metric.startswith("accuracy/"):
            raise ConfigError(
                "train.best_metric of a classifier must be 'accuracy/top1' or 'accuracy/top5', got "
                f"{cfg.train.best_metric!r}"
            )
        loaders = {"train": cfg.dataloader.train, "val": cfg.dataloader.test}
        parts = {name: image_records(loaders[name]) for name in (["val"] if eval_only else loaders)}
        self.pictures = ", ".join(f"{name} {describe_images(records)}" for name, records in parts.items())
        classes = parts["val"].classes
        class_count(cfg, NUM_CLASSES, classes, "the data set")
        cfg.train.class_names = classes

    def describe(self, cfg: DictConfig) -> Iterator[tuple[str, str]]:
        """Yield a line with the numbers of pictures, and one with the names of the classes."""
        if self.pictures:
            yield "pictures", self.pictures
        yield "classes", described_names(cfg.train.class_names)


def own_class_count(loader: DictConfig) -> int:
    """Return the number of classes of the pictures that a config itself describes; 0 if they do not exist here."""
    dataset = loader.dataset
    if target(dataset) is shape_images:
        return len(IMAGE_CLASSES)
    try:
        return len(image_records(loader).classes)
    except DatasetError:
        is_imagenet = target(dataset) is image_folder and dataset.get("root") is None
        return IMAGENET_CLASSES if is_imagenet else 0


def use_image_folder(cfg: DictConfig, directory: str) -> None:
    """Point a config, in place, at ``directory/train`` and ``directory/val``."""
    for split, loader in (("train", cfg.dataloader.train), ("val", cfg.dataloader.test)):
        loader.dataset = LazyCall(image_folder)(root=os.path.abspath(directory), split=split)


def set_schedule(cfg: DictConfig, num_images: int) -> str:
    """Turn ``train.epochs`` into iterations, in place, with an evaluation and a checkpoint each epoch.

    The epochs become null, so that a saved config keeps its iterations.  Return a line that describes the schedule.
    """
    epochs = cfg.train.epochs
    per_epoch = num_images / cfg.dataloader.train.total_batch_size
    cfg.train.max_iter = max(1, round(epochs * per_epoch))
    cfg.train.eval_period = cfg.train.checkpointer.period = max(1, round(per_epoch))
    cfg.train.epochs = None
    return f"Schedule: {epochs:g} epochs of {num_images:,} images are {cfg.train.max_iter:,} iterations."


def image_records(loader: DictConfig) -> ImageRecords:
    """Return the pictures of a loader's config.

    Raises:
        DatasetError: there are no pictures.
        ConfigError: the config describes another kind of data set.
    """
    records = instantiate_part("dataset", loader.dataset)
    if not isinstance(records, ImageRecords):
        raise ConfigError(
            f"the data set of a classifier must be ImageRecords, got {type(records).__name__}; "
            "use lesa_d2.data.image_folder, or --data DIR"
        )
    return records
