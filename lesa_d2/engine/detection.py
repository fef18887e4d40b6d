"""Training detectors: data sets in a config, replaced by a folder of the user's, checked before training."""

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import ClassVar

from detectron2.config import LazyCall, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..config.lazy import is_given, load_config
from ..data import (
    check_coco_folder,
    coco_folder_classes,
    coco_folder_has_masks,
    coco_folder_problems,
    coco_folder_split,
)
from ..errors import WITHOUT_SEMANTICS, ConfigError, DatasetError
from ..evaluation import CocoEvaluator, highest_score, make_tta_mapper
from ..tools.reports import write_data_report, write_detection_report
from .schedule import Schedule, fit_schedule
from .task import Task
from .values import Rule, explained, matches, whole

NUM_CLASSES = "model.roi_heads.num_classes"
REPORT = "train.report.enabled"

logger = logging.getLogger("lesa_d2")


class Detection(Task):
    """Detectors on COCO-format data."""

    rules: ClassVar[dict[str, Rule]] = {
        NUM_CLASSES: explained(whole(1), "of a detector; pretrain_imagenet.py trains classifiers"),
        "train.best_metric": matches(
            r"(bbox|segm)/AP(50|75|s|m|l|-.+)?", "a metric such as 'segm/AP' or 'bbox/AP50'"
        ),
    }

    examples = """
examples:
  python train_net.py --config-file configs/mask_rcnn_lesa_r50.py --num-gpus 8
  python train_net.py --config-file configs/mask_rcnn_lesa_r50.py --resume
  python train_net.py --config-file configs/quickstart_lesa.py --dataset DIR
  torchrun --nproc-per-node 2 train_net.py --config-file configs/quickstart_lesa.py train.max_iter=100
"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--dataset", metavar="DIR", help="train and evaluate on this COCO-format folder instead"
        )
        parser.add_argument(
            "--drop-invalid", action="store_true", help="leave out what the check of --dataset finds wrong"
        )

    def use_data(self, cfg: DictConfig, args: argparse.Namespace) -> None:
        if args.dataset is not None:
            use_dataset_folder(cfg, args.dataset, args.drop_invalid, given=args.opts)
            if not is_given(REPORT, args.opts):
                OmegaConf.update(cfg, REPORT, True)
        elif args.drop_invalid:
            raise ConfigError("--drop-invalid concerns the folder given by --dataset DIR, which is missing")

    def check_data(self, cfg: DictConfig, eval_only: bool) -> list[str]:
        if OmegaConf.select(cfg, "train.tta.enabled"):
            make_tta_mapper(
                cfg
            )  # a test loader that it cannot serve is found now, not at the first evaluation
        _check_evaluator(cfg)
        return check_datasets(cfg, eval_only)

    def before_training(self, cfg: DictConfig, args: argparse.Namespace) -> None:
        if args.dataset is not None:
            logger.info(_fit_schedule(cfg, args))
        if not OmegaConf.select(cfg, REPORT) or not comm.is_main_process():
            return
        text = write_data_report(
            cfg.train.output_dir,
            dataset_names(cfg.dataloader.train),
            dataset_names(cfg.dataloader.test),
            left_out=coco_folder_problems(args.dataset) if args.dataset and args.drop_invalid else (),
            seen=_seen_size(cfg),
        )
        logger.info("%s\n", text)

    @contextlib.contextmanager
    def reporting(self, cfg: DictConfig, model: nn.Module, evaluator: DatasetEvaluator) -> Iterator[None]:
        if not OmegaConf.select(cfg, REPORT):
            yield
            return
        with highest_score(model) as highest:
            yield
        score = highest.over_processes()
        if not comm.is_main_process():
            return
        text = write_detection_report(
            cfg.train.output_dir,
            evaluator,
            score_threshold=OmegaConf.select(cfg, "train.report.score_threshold"),
            highest_score=score,
        )
        logger.info("%s\n\nWritten to %s\n", text, cfg.train.output_dir)


def _fit_schedule(cfg: DictConfig, args: argparse.Namespace) -> str:
    records = [r for name in dataset_names(cfg.dataloader.train) for r in DatasetCatalog.get(name)]
    images = sum(any(not a.get("iscrowd") for a in r["annotations"]) for r in records)
    return fit_schedule(cfg, Schedule.of(load_config(args.config_file)), images, given=args.opts)


def _seen_size(cfg: DictConfig) -> tuple[int, int] | None:
    """(height, width) in pixels of the pictures for testing, where all are resized to one."""
    resizings = [instantiate(a) for a in cfg.dataloader.test.mapper.augmentations]
    if len(resizings) == 1 and isinstance(resizings[0], T.Resize):
        height, width = resizings[0].shape
        return height, width
    return None


def _check_evaluator(cfg: DictConfig) -> None:
    """ConfigError where a report is wanted from an evaluator that keeps nothing to report from."""
    target = cfg.dataloader.evaluator._target_
    if isinstance(target, str):  # as in a saved config
        target = locate(target)
    is_ours = isinstance(target, type) and issubclass(target, CocoEvaluator)
    if OmegaConf.select(cfg, REPORT) and not is_ours:
        raise ConfigError(
            "train.report.enabled=True needs lesa_d2.evaluation.CocoEvaluator as dataloader.evaluator, got "
            f"{getattr(target, '__name__', target)}; use it, or set train.report.enabled=False"
        )


def use_dataset_folder(
    cfg: DictConfig, directory: str, drop_invalid: bool = False, given: Sequence[str] = ()
) -> None:
    """Point a config, in place, at a COCO-format folder; its classes set the model's number of classes.

    Args:
        cfg: a training config.
        directory: see :func:`lesa_d2.data.coco_folder_split` for the layouts.
        drop_invalid: leave out what the check finds wrong, instead of refusing the folder.
        given: overrides of the command line; a number of classes among them is kept.

    Raises:
        DatasetError: lists everything that is wrong with the folder.
    """
    if not drop_invalid:
        _check_once(directory)
    classes = coco_folder_classes(directory)
    if not is_given(NUM_CLASSES, given):
        OmegaConf.update(cfg, NUM_CLASSES, len(classes))
    for split, loader in (("train", cfg.dataloader.train), ("val", cfg.dataloader.test)):
        loader.dataset.names = LazyCall(coco_folder_split)(
            directory=os.path.abspath(directory), split=split, seed=cfg.train.seed, drop_invalid=drop_invalid
        )
    if coco_folder_has_masks(directory):
        cfg.dataloader.train.mapper.instance_mask_format = "bitmask"  # holds polygons and RLE alike
    else:
        switch_masks_off(cfg)
    if cfg.model.roi_heads.get("semantic_head") is not None:
        switch_semantics_off(cfg)


def switch_masks_off(cfg: DictConfig) -> None:
    """Take the mask heads out of a config, in place: for data that has boxes only."""
    if comm.is_main_process():
        print("No annotation has a segmentation: training and evaluating boxes only.")
    heads = cfg.model.roi_heads
    heads.mask_in_features = heads.mask_pooler = None
    heads["mask_heads" if "mask_heads" in heads else "mask_head"] = None
    cfg.dataloader.train.mapper.use_instance_mask = False
    cfg.dataloader.evaluator.tasks = ["bbox"]
    cfg.train.best_metric = cfg.train.best_metric.replace("segm/", "bbox/")


def switch_semantics_off(cfg: DictConfig) -> None:
    """Turn an HTC config, in place, into one without semantic branch: for data without stuff maps."""
    if comm.is_main_process():
        print("No stuff maps are read from --dataset: Hybrid Task Cascade without its semantic branch.")
    heads = cfg.model.roi_heads
    heads.semantic_head = heads.semantic_pooler = None


def _check_once(directory: str) -> None:
    """The main process checks for all; every process learns the outcome."""
    message = None
    if comm.is_main_process():
        try:
            check_coco_folder(directory)
        except DatasetError as error:
            message = str(error)
    message = comm.all_gather(message)[0]
    if message:
        raise DatasetError(message)


def check_datasets(cfg: DictConfig, eval_only: bool = False) -> list[str]:
    """The class names of the config's data sets, which must exist and agree with the model.

    With ``eval_only`` the data for training need not be there.

    Raises:
        DatasetError: a data set is not registered, its files are missing, or it has no stuff maps although
            the model learns from them.
        ConfigError: the model has another number of classes.
    """
    loaders = [cfg.dataloader.test] if eval_only else [cfg.dataloader.train, cfg.dataloader.test]
    for loader in loaders:
        for name in dataset_names(loader):
            _check_files(name)
    if not eval_only and OmegaConf.select(cfg, "model.roi_heads.semantic_head") is not None:
        _check_stuff_maps(dataset_names(cfg.dataloader.train))
    classes = list(MetadataCatalog.get(dataset_names(loaders[0])[0]).thing_classes)
    expected = OmegaConf.select(cfg, NUM_CLASSES)
    if expected != len(classes):
        raise ConfigError(
            f"wrong number of classes: {NUM_CLASSES}={expected}, but the data set has {len(classes)} "
            f"({', '.join(classes[:10])}); set {NUM_CLASSES}={len(classes)}"
        )
    return classes


def dataset_names(loader: DictConfig) -> list[str]:
    """The registered names of the data sets of a loader's config; registers them if need be."""
    names = instantiate(loader.dataset.names)
    return [names] if isinstance(names, str) else list(names)


def _check_files(name: str) -> None:
    if name not in DatasetCatalog:
        raise DatasetError(f"data set {name!r} is not registered with detectron2; known: {_similar(name)}")
    metadata = MetadataCatalog.get(name)
    for kind in ("json_file", "image_root"):
        path = metadata.get(kind)
        if path and not PathManager.exists(path):
            root = os.getenv("DETECTRON2_DATASETS", "datasets")
            raise DatasetError(
                f"data set {name!r}: {path} does not exist (DETECTRON2_DATASETS is {root!r}). Put the data "
                "there, point DETECTRON2_DATASETS at the folder that holds it, or train on a COCO-format "
                "folder of your own with --dataset DIR"
            )


def _check_stuff_maps(names: list[str]) -> None:
    without = [name for name in names if not MetadataCatalog.get(name).get("sem_seg_root")]
    if without:
        raise DatasetError(
            f"data set {without[0]!r} has no stuff maps (no sem_seg_root), which the semantic branch learns "
            f"from: register it by lesa_d2.data.coco_with_stuff_maps, or set {WITHOUT_SEMANTICS}"
        )


def _similar(name: str) -> list[str]:
    return [known for known in DatasetCatalog.list() if known.split("_")[0] == name.split("_")[0]]
