"""Training on the records of detectron2: boxes, masks, keypoints, semantic and panoptic segmentation."""

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from detectron2.config import LazyCall
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..config.lazy import target
from ..data import (
    SEM_SEG_CLASSES,
    SHAPE_CLASSES,
    DatasetFolder,
    folder_split,
    open_folder,
    shapes_split,
)
from ..data.registration import readable_name
from ..errors import WITHOUT_SEMANTICS, ConfigError, DatasetError
from ..evaluation import CocoEvaluator, make_tta_mapper
from ..modeling.build import instantiate_part
from .classes import class_count, set_class_count
from .schedule import Schedule, fit_iterations, fit_periods
from .task import Derivation, Task, register_task

CLASS_COUNTS = {
    "model.roi_heads.num_classes": "thing_classes",
    "model.num_classes": "thing_classes",  # of one-stage detectors
    "model.sem_seg_head.num_classes": "stuff_classes",
}
"""Keys of a model's numbers of classes, and the names in the metadata of a data set that they count."""

SEMANTIC_HEADS = ("model.roi_heads.semantic_head", "model.sem_seg_head")
MASK_PARTS = ("mask_in_features", "mask_pooler", "mask_head", "mask_heads")


@register_task
class Detection(Task):
    """Train on records of detectron2's catalog, or on a folder of the user in a known format."""

    name = "detection"
    command = "lesa train"
    trains = "a detector, or any other LazyConfig of detectron2"

    examples = """
examples:
  lesa train --config-file configs/mask_rcnn_lesa_r50.py --num-gpus 8
  lesa train --config-file configs/mask_rcnn_lesa_r50.py --resume
  lesa train --config-file configs/quickstart_lesa.py --dataset DIR
  torchrun --nproc-per-node 2 train_net.py --config-file configs/quickstart_lesa.py train.max_iter=100
"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options ``--dataset`` and ``--drop-invalid``."""
        parser.add_argument(
            "--dataset",
            metavar="DIR",
            help="train and evaluate on this folder instead: COCO, YOLO, VOC, LabelMe",
        )
        parser.add_argument(
            "--drop-invalid", action="store_true", help="leave out what the check of --dataset finds wrong"
        )

    def derivations(self, written: DictConfig, args: argparse.Namespace) -> Sequence[Derivation]:
        """Return the steps that derive from ``--dataset`` the data, classes and schedule.

        Raises:
            ConfigError: ``--drop-invalid`` is given without a folder.
        """
        if args.dataset is None:
            if args.drop_invalid:
                raise ConfigError(
                    "--drop-invalid concerns the folder given by --dataset DIR, which is missing"
                )
            return []
        _check_takes_folder(written)
        use_folder = partial(
            use_dataset_folder, directory=args.dataset, drop_invalid=args.drop_invalid, notes=self.notes
        )
        if args.eval_only:
            return [use_folder]
        schedule = Schedule.of(written)

        def iterations(cfg: DictConfig) -> None:
            self._images = count_images(cfg)
            fit_iterations(cfg, schedule, self._images)

        def periods(cfg: DictConfig) -> None:
            self.notes.append(fit_periods(cfg, schedule, self._images))

        return [use_folder, iterations, periods]

    def check_data(self, cfg: DictConfig, eval_only: bool) -> None:
        """Check the data sets, the evaluator and test-time augmentation, and note the names of the classes."""
        if cfg.train.tta.enabled:
            make_tta_mapper(cfg)  # so that an unsuitable test loader is reported before training
        if cfg.train.report.enabled:
            _check_reportable(cfg)
        check_datasets(cfg, eval_only)
        names = dataset_names(cfg.dataloader.test if eval_only else cfg.dataloader.train)
        metadata = MetadataCatalog.get(names[0]) if names else {}
        kinds = set(class_count_keys(cfg).values()) or {"thing_classes"}
        for key, kind in (("class_names", "thing_classes"), ("stuff_names", "stuff_classes")):
            cfg.train[key] = (
                (_names(metadata, kind) or []) if kind in kinds else None
            )  # []: they have no names

    def describe(self, cfg: DictConfig) -> Iterator[tuple[str, str]]:
        """Yield a line with the names of the classes, and one with those of stuff classes."""
        for title, names in (("classes", cfg.train.class_names), ("stuff classes", cfg.train.stuff_names)):
            if names:
                yield title, described_names(names)


def described_names(names: Sequence[str], shown: int = 10) -> str:
    """Return a text with the number of classes and the first names."""
    more = f", … ({len(names)})" if len(names) > shown else ""
    return f"{len(names)}: " + ", ".join(names[:shown]) + more


def _names(metadata: Any, kind: str) -> list[str] | None:
    names = metadata.get(kind)
    return list(names) if names else None


def class_count_keys(cfg: DictConfig) -> dict[str, str]:
    """Return the keys of :data:`CLASS_COUNTS` that a config has."""
    return {key: kind for key, kind in CLASS_COUNTS.items() if OmegaConf.select(cfg, key) is not None}


def dataset_names(loader: DictConfig) -> list[str]:
    """Return the registered names of the data sets of a loader's config, and register them if needed.

    A loader that is not made of detectron2's parts has none.
    """
    if OmegaConf.select(loader, "dataset.names") is None:
        return []
    made = instantiate_part("dataset.names", loader.dataset.names)
    names = [made] if isinstance(made, str) else made
    if not isinstance(names, (list, tuple, ListConfig)) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"dataset.names must be the name of a registered data set, or a list of names; got {made!r}"
        )
    return list(names)


def own_classes(loader: DictConfig, kind: str = "thing_classes") -> list[str] | None:
    """Return the names of the classes of the data that a config itself describes, without generating pictures.

    Return None if they are not known, because the data do not exist here or have no names.
    """
    if target(OmegaConf.select(loader, "dataset.names")) is shapes_split:
        return list(SHAPE_CLASSES if kind == "thing_classes" else SEM_SEG_CLASSES)
    try:
        name = dataset_names(loader)[0]
    except Exception:  # the data set may be of any kind, and may not exist here
        return None
    return _names(MetadataCatalog.get(name), kind) if name in DatasetCatalog else None


def count_images(cfg: DictConfig) -> int:
    """Return the number of training images with at least one object that is not a crowd."""
    records = [r for name in dataset_names(cfg.dataloader.train) for r in DatasetCatalog.get(name)]
    return sum(any(not a.get("iscrowd") for a in r["annotations"]) for r in records)


# -------------------------------------------------------------------------------------- a folder of the user


def use_dataset_folder(
    cfg: DictConfig, directory: str, drop_invalid: bool = False, notes: list[str] | None = None
) -> None:
    """Point a config, in place, at a folder; its classes set the model's number of classes.

    Args:
        cfg: a training config of a detector of boxes, with or without masks.
        directory: in a format that :func:`lesa_d2.data.open_folder` knows.
        drop_invalid: leave out invalid images and annotations instead of refusing the folder.
        notes: lines about the changes are appended to it.

    Raises:
        DatasetError: something is wrong with the folder; the message lists everything.
        ConfigError: the model learns from more than boxes and masks, or the config's own number of classes is
            neither that of its data nor that of the folder.
    """
    notes = [] if notes is None else notes
    _check_takes_folder(cfg)
    folder = open_folder(directory)
    if not drop_invalid:
        _check_once(folder)
    classes = folder.classes
    notes += [*folder.description(), *folder.remarks()]
    for key in class_count_keys(cfg):
        own = own_classes(cfg.dataloader.train) or own_classes(cfg.dataloader.test) or []
        set_class_count(cfg, key, classes, f"{directory} (--dataset)", len(own), notes)
    for split, loader in (("train", cfg.dataloader.train), ("val", cfg.dataloader.test)):
        loader.dataset.names = LazyCall(folder_split)(
            directory=os.path.abspath(directory), split=split, seed=cfg.train.seed, drop_invalid=drop_invalid
        )
    if target(cfg.dataloader.get("evaluator")) is COCOEvaluator:
        cfg.dataloader.evaluator = LazyCall(CocoEvaluator)(
            dataset_name="${dataloader.test.dataset.names}", output_dir="${train.output_dir}"
        )
    if OmegaConf.select(cfg, "dataloader.train.mapper.use_instance_mask"):
        if folder.has_masks:
            cfg.dataloader.train.mapper.instance_mask_format = "bitmask"  # holds polygons and RLE alike
        else:
            switch_masks_off(cfg)
            notes.append("No annotation has a segmentation: training and evaluating boxes only.")
    if OmegaConf.select(cfg, "model.roi_heads.semantic_head") is not None:
        cfg.model.roi_heads.semantic_head = cfg.model.roi_heads.semantic_pooler = None
        notes.append(
            "No stuff maps are read from --dataset: Hybrid Task Cascade without its semantic branch."
        )
    evaluator = target(cfg.dataloader.get("evaluator"))
    cfg.train.report.enabled = isinstance(evaluator, type) and issubclass(evaluator, CocoEvaluator)


def _check_takes_folder(cfg: DictConfig) -> None:
    """Check that a folder of boxes and masks has everything that the model learns from.

    Raises:
        ConfigError: the model learns from keypoints or from labels of pixels, or the loaders name no data sets.
    """
    for name in ("train", "test"):
        if OmegaConf.select(cfg, f"dataloader.{name}.dataset.names") is None:
            raise ConfigError(
                f"--dataset sets dataloader.{name}.dataset.names, which this config lacks: its loader is its own"
            )
    needs = []
    if OmegaConf.select(cfg, "model.sem_seg_head") is not None:
        needs.append("a label for every pixel (model.sem_seg_head)")
    if OmegaConf.select(cfg, "dataloader.train.mapper.use_keypoint"):
        needs.append("keypoints (dataloader.train.mapper.use_keypoint)")
    if needs:
        raise ConfigError(
            f"--dataset is for detectors of boxes and masks, and this model learns from {' and '.join(needs)}: "
            "register the data set with detectron2 and name it in dataloader.train.dataset.names"
        )


def switch_masks_off(cfg: DictConfig) -> None:
    """Remove the mask heads from a config, in place, for data with boxes only.

    Raises:
        ConfigError: the model has its mask heads elsewhere than in its RoI heads.
    """
    heads = OmegaConf.select(cfg, "model.roi_heads")
    parts = [name for name in MASK_PARTS if heads is not None and name in heads]
    if not parts:
        raise ConfigError(
            "the folder of --dataset has no masks, and the masks of this model cannot be left out: they are not "
            "in model.roi_heads; set dataloader.train.mapper.use_instance_mask=False if the model learns without"
        )
    for name in parts:
        heads[name] = None
    cfg.dataloader.train.mapper.use_instance_mask = False
    if cfg.dataloader.train.mapper.get("recompute_boxes"):  # boxes of cropped masks
        cfg.dataloader.train.mapper.recompute_boxes = False
    evaluator = cfg.dataloader.get("evaluator")
    if evaluator is not None and ("tasks" in evaluator or target(evaluator) is CocoEvaluator):
        evaluator.tasks = ["bbox"]
    if cfg.train.best_metric:
        cfg.train.best_metric = cfg.train.best_metric.replace("segm/", "bbox/")


def _check_once(folder: DatasetFolder) -> None:
    """Check a folder on the main process, and raise its error on every process.

    Raises:
        DatasetError: something is wrong with the folder.
    """
    message = None
    if comm.is_main_process():
        try:
            folder.check()
        except DatasetError as error:
            message = str(error)
    message = comm.all_gather(message)[0]
    if message:
        raise DatasetError(message)


# -------------------------------------------------------------------------------------------------- checks


def _check_reportable(cfg: DictConfig) -> None:
    """Check that the evaluator keeps what a report needs.

    Raises:
        ConfigError: it does not.
    """
    evaluator = cfg.dataloader.get("evaluator")
    kind = target(evaluator)
    if not (isinstance(kind, type) and issubclass(kind, CocoEvaluator)):
        raise ConfigError(
            "train.report.enabled=True is for boxes and masks and needs lesa_d2.evaluation.CocoEvaluator as "
            f"dataloader.evaluator, got {getattr(kind, '__name__', type(evaluator).__name__)}; use it, or set "
            "train.report.enabled=False"
        )


def check_datasets(cfg: DictConfig, eval_only: bool = False) -> None:
    """Check that the config's data sets exist and agree with the model.

    With ``eval_only`` the data for training need not exist.

    Raises:
        DatasetError: a data set is not registered, its files are missing, or it has no stuff maps although
            the model learns from them.
        ConfigError: the model has another number of classes, or what should be names of data sets is none.
    """
    loaders = [cfg.dataloader.test] if eval_only else [cfg.dataloader.train, cfg.dataloader.test]
    for loader in loaders:
        for name in dataset_names(loader):
            _check_files(name)
    names = dataset_names(loaders[0])
    if not names:
        return
    if not eval_only:
        for head in SEMANTIC_HEADS:
            if OmegaConf.select(cfg, head) is not None:
                _check_stuff_maps(names, head)
    metadata = MetadataCatalog.get(names[0])
    for key, kind in class_count_keys(cfg).items():
        classes = _names(metadata, kind)
        if classes is not None:
            class_count(cfg, key, classes, f"the data set {readable_name(names[0])}")


def _check_files(name: str) -> None:
    if name not in DatasetCatalog:
        raise DatasetError(f"data set {name!r} is not registered with detectron2; known: {_similar(name)}")
    metadata = MetadataCatalog.get(name)
    for kind in ("json_file", "image_root"):
        path = metadata.get(kind)
        if path and not PathManager.exists(path):
            root = os.getenv("DETECTRON2_DATASETS", "datasets")
            raise DatasetError(
                f"data set {readable_name(name)!r}: {path} does not exist (DETECTRON2_DATASETS is {root!r}). "
                "Put the data there, point DETECTRON2_DATASETS at the folder that holds it, or train on a COCO-format "
                "folder of your own with --dataset DIR"
            )


def _check_stuff_maps(names: list[str], head: str) -> None:
    """Check that the metadata, or the first record, of every data set leads to stuff maps."""
    for name in names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("sem_seg_root"):
            continue
        if head == SEMANTIC_HEADS[0]:
            raise DatasetError(
                f"data set {name!r} has no stuff maps (no sem_seg_root), which the semantic branch learns "
                f"from: register it by lesa_d2.data.coco_with_stuff_maps, or set {WITHOUT_SEMANTICS}"
            )
        records = DatasetCatalog.get(name)
        if not records or "sem_seg_file_name" not in records[0]:
            raise DatasetError(
                f"data set {name!r} has no stuff maps (sem_seg_file_name in its records), which {head} learns from; "
                "name one that has, such as coco_2017_train_panoptic_separated"
            )


def _similar(name: str) -> list[str]:
    return [known for known in DatasetCatalog.list() if known.split("_")[0] == name.split("_")[0]]
