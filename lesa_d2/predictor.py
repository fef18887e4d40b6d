"""Predictions for images in memory, with the model of a config file of either kind.

detectron2's DefaultPredictor takes yacs configs alone; this one also takes LazyConfigs.  What happens to an
image before it reaches the network is up to the config's own test mapper: there is no second preprocessing.
"""

import contextlib
import copy
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from .checkpoint import LoadReport, holds_trained_model, last_checkpoint, load_weights
from .config.settings import check_settings, fill_defaults
from .engine import Detection, build_model, load_evaluated
from .engine.detection import own_classes
from .engine.device import PRECISIONS, device_for, settle
from .errors import CheckpointError, ConfigError, LesaError, parts_fit
from .evaluation import with_test_time_augmentation
from .modeling.build import build_yacs_model, instantiate_part

logger = logging.getLogger(__name__)

Output = dict[str, Any]
SECTIONS = ("model", "dataloader", "train")


@dataclass(frozen=True)
class Detector:
    """Hold what both kinds of config come down to.

    Attributes:
        model: takes a list of detectron2's model inputs, gives a list of outputs.
        mapper: the config's, for tests; its augmentations and channel order are what images go through.
        class_names: of the classes of objects; empty where nothing says.
        stuff_names: of the classes of pixels; empty where there are none, or nothing says.
        averaged: whether the model has the averaged weights of its checkpoint.
    """

    model: nn.Module
    mapper: DatasetMapper
    class_names: list[str]
    stuff_names: list[str]
    averaged: bool = False


class Predictor:
    """Predict with a trained model: ``Predictor(cfg)(image)["instances"]``.

    Args:
        cfg: a LazyConfig (``lesa_d2.config.load_config``, ``lesa_d2.model_zoo.get_config``) or a yacs config
            with ``add_lesa_config``; not changed.
        weights: a checkpoint; "" leaves the model untrained.  None takes those that :func:`trained_weights`
            finds.
        device: such as "cuda:1" or "cpu"; None is the config's, or the CPU where there is no GPU.
        amp: "bfloat16" or "float16" for mixed precision; None computes in float32.
        batch_size: images at once.  1 gives every image the very result that it has alone.  More is faster
            on a GPU; images of one size are put together, and results differ by rounding.

    Attributes:
        model: in eval mode; its weights do not train.
        class_names: of objects by class index, as in ``instances.pred_classes``.
        stuff_names: of pixels by class index, as in ``sem_seg``.
        weights: path of the checkpoint; "" for an untrained model.
        averaged: whether the weights are the average that this checkpoint holds, which training evaluated.

    Raises:
        ConfigError: the config is that of a classifier, an argument is out of range, or ``device`` is a GPU that is
            not there.
        CheckpointError: the weights are not there, or are not those of this model.
    """

    def __init__(
        self,
        cfg: DictConfig | CfgNode,
        weights: str | os.PathLike | None = None,
        device: str | None = None,
        amp: str | None = None,
        batch_size: int = 1,
    ) -> None:
        if amp is not None and amp not in PRECISIONS:
            raise ConfigError(f"amp must be one of {sorted(PRECISIONS)} or None, got {amp!r}")
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        cfg = checked_copy(cfg)
        path = trained_weights(cfg) if weights is None else os.fspath(weights)
        load = _load_yacs if isinstance(cfg, CfgNode) else _load_lazy
        detector = load(cfg, path, device)
        if not path:
            logger.warning("No weights: the model is untrained, and what it predicts means nothing.")
        self.model = detector.model.eval().requires_grad_(False)
        self.weights = path
        self.averaged = detector.averaged
        self.class_names = detector.class_names
        self.stuff_names = detector.stuff_names
        if not isinstance(detector.mapper, DatasetMapper):
            raise ConfigError(
                "the config's test mapper must be detectron2's DatasetMapper, whose augmentations images go "
                f"through, got {type(detector.mapper).__name__}"
            )
        self._augmentations = detector.mapper.augmentations
        self.image_format = detector.mapper.image_format
        self._batch_size = batch_size
        if self.image_format not in ("RGB", "BGR"):
            raise ConfigError(f"the predictor serves models of RGB or BGR images, got {self.image_format!r}")
        self._precision = PRECISIONS[amp or "float32"]

    def describe_weights(self) -> str:
        """Return the path of the checkpoint, and whether its averaged weights are used; "none" where untrained."""
        return f"{self.weights or 'none'}{' (the averaged ones in it)' if self.averaged else ''}"

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> Output | list[Output]:
        """Predict for one image or several.

        Args:
            images: one image (H, W, 3) uint8 in BGR order, as OpenCV reads it, of any size; or several of
                them, of any sizes, as a list or as one array (N, H, W, 3).

        Returns:
            What the model gives for an image, a list of such for several: {"instances": detectron2's Instances in
            the image's own pixels}, {"sem_seg": scores (K, H, W)}, or for panoptic segmentation both, with
            "panoptic_seg".

        Raises:
            LesaError: something else than such images; or parts of the model do not fit together.
        """
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        if isinstance(images, (list, tuple)):
            return list(self.stream(images))
        return next(self.stream([images]))  # type: ignore[list-item]

    def stream(self, images: Iterable[np.ndarray]) -> Iterator[Output]:
        """Yield outputs in the order of ``images``, which may be endless: at most ``batch_size`` are held."""
        batch: list[dict[str, Any]] = []
        for image in images:
            model_input = self.preprocess(image)
            if batch and (len(batch) == self._batch_size or _size(batch[0]) != _size(model_input)):
                yield from self._run(batch)
                batch = []
            batch.append(model_input)
        if batch:
            yield from self._run(batch)

    def preprocess(self, image: np.ndarray) -> dict[str, Any]:
        """Make of an image (H, W, 3) uint8, BGR, what detectron2's models take, by the config's test mapper."""
        _check_image(image)
        seen = T.AugInput(np.ascontiguousarray(image[:, :, ::-1]) if self.image_format == "RGB" else image)
        with _numpy_numbers_kept():  # detectron2's resizing draws one even from a single size
            self._augmentations(seen)
        pixels = torch.as_tensor(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))
        return {"image": pixels, "height": image.shape[0], "width": image.shape[1]}

    def _run(self, batch: list[dict[str, Any]]) -> list[Output]:
        device = next(self.model.parameters()).device.type
        half = self._precision is not torch.float32
        autocast = torch.autocast(device, self._precision if half else None, enabled=half)
        fits = parts_fit("predicting", "model")
        with torch.no_grad(), autocast, fits, _numpy_numbers_kept():  # test-time augmentation resizes too
            return self.model(batch)


@contextlib.contextmanager
def _numpy_numbers_kept() -> Iterator[None]:
    numbers = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(numbers)


def _size(model_input: dict[str, Any]) -> tuple[int, ...]:
    image: Tensor = model_input["image"]
    return tuple(image.shape)


def _check_image(image: Any) -> None:
    if isinstance(image, np.ndarray):
        if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size:
            return
        got = f"an array {image.shape} of {image.dtype}"
    else:
        got = f"a {type(image).__name__}"
    raise LesaError(
        f"expected an image (H, W, 3) of uint8 in BGR order, as cv2.imread gives it, got {got}; "
        "cv2.cvtColor adds or removes channels; cv2.imread returns None for a file that it cannot read"
    )


def checked_copy(cfg: Any) -> DictConfig | CfgNode:
    """Return a copy of a config, completed by the defaults of our keys.

    Raises:
        ConfigError: it is no config of a model that predicts for images.
    """
    if isinstance(cfg, CfgNode):
        return copy.deepcopy(cfg)
    if not isinstance(cfg, DictConfig):
        raise ConfigError(
            f"expected a LazyConfig or a yacs config, got {type(cfg).__name__}; load a file by "
            "lesa_d2.config.load_any_config"
        )
    missing = [name for name in SECTIONS if name not in cfg]
    if missing:
        raise ConfigError(f"the config does not define {missing}, which a training config has")
    cfg = copy.deepcopy(cfg)
    fill_defaults(cfg)
    if cfg.train.task != Detection.name:
        raise ConfigError(
            f"expected the config of a detector, got that of a classifier (train.task={cfg.train.task})"
        )
    return cfg


def trained_weights(cfg: DictConfig | CfgNode) -> str:
    """Return the checkpoint of a config's trained detector.

    That is ``MODEL.WEIGHTS``, or for a LazyConfig ``train.init_checkpoint``, where that file holds a
    detector.  Where it holds a start of training, or the config was saved by a run, it is the last checkpoint
    of the output folder; also where it is a ``lesa://`` name whose weights are not here.

    Returns:
        A path; "" where the config asks for no weights and there is no run either.

    Raises:
        CheckpointError: there is a start of training only, or the file is not there or cannot be read.
    """
    if isinstance(cfg, CfgNode):
        given, folder, was_saved_by_run = cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, False
    else:
        given, folder = cfg.train.init_checkpoint, cfg.train.output_dir
        # a run saves the names of its data, an empty list where they have none
        was_saved_by_run = cfg.train.class_names is not None or cfg.train.get("stuff_names") is not None
    last = last_checkpoint(folder)
    is_elsewhere = last and given.startswith("lesa://") and not PathManager.isfile(given)
    if given and not is_elsewhere and not was_saved_by_run and holds_trained_model(given):
        return given
    if given and not last:
        raise CheckpointError(
            f"no trained weights: {folder} holds no checkpoint, and {given} is what training starts from; "
            'give the weights of a trained detector (in Python weights=FILE, where "" leaves it untrained)'
        )
    return last


def _load_lazy(cfg: DictConfig, path: str, device: str | None) -> Detector:
    cfg.train.device = device_for(cfg.train.device, device)
    check_settings(cfg, sections=("train",))
    cfg.train.scale_lr = False  # nothing is trained
    settle(cfg)
    model, report = load_evaluated(cfg, path) if path else (build_model(cfg), LoadReport())
    loader = cfg.dataloader.test
    if cfg.train.tta.enabled:
        model, loader = with_test_time_augmentation(cfg, model)
    objects, stuff = (class_names(cfg, key, kind) for key, kind in NAMES.items())
    mapper = instantiate_part("dataloader.test.mapper", loader.mapper)
    return Detector(model, mapper, objects, stuff, report.averaged)


NAMES = {"train.class_names": "thing_classes", "train.stuff_names": "stuff_classes"}


def class_names(cfg: DictConfig, key: str, kind: str) -> list[str]:
    """Return the names that a run saved in its config under ``key``, else those of the data it is evaluated on."""
    names = OmegaConf.select(cfg, key) or own_classes(cfg.dataloader.test, kind)
    if names is None and kind == "thing_classes":
        logger.warning("Classes are numbered, since their names are not known: the data set is not here.")
    return list(names or [])


def _load_yacs(cfg: CfgNode, path: str, device: str | None) -> Detector:
    cfg.defrost()
    cfg.MODEL.DEVICE = device_for(cfg.MODEL.DEVICE, device)
    model = build_yacs_model(cfg)
    if path:
        load_weights(model, path)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else {}
    objects, stuff = (list(metadata.get(kind, [])) for kind in NAMES.values())
    return Detector(model, DatasetMapper(cfg, is_train=False), objects, stuff)
