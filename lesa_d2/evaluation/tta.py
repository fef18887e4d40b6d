"""Augment images at test time: detections in several sizes of an image, also flipped, are merged by detectron2."""

import copy
from collections.abc import Sequence

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from fvcore.transforms import NoOpTransform
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..errors import ConfigError


class TestTimeMapper:
    """Make versions of an image: each of the resizings, plain and flipped.

    Args:
        resizings: detectron2's augmentations, one for each version.
        flip: also flip each horizontally.
    """

    __test__ = False  # pytest would take it for a test

    def __init__(self, resizings: Sequence[T.Augmentation], flip: bool = True) -> None:
        flips: list[list[T.Augmentation]] = [[], [T.RandomFlip(prob=1.0)]]
        self.versions = [[resize, *also] for resize in resizings for also in flips[: 1 + flip]]

    def __call__(self, dataset_dict: dict) -> list[dict]:
        """Map a model input with "image" (C, H, W) to one for each version, with its "transforms"."""
        image = dataset_dict["image"].permute(1, 2, 0).numpy()
        original = (dataset_dict["height"], dataset_dict["width"])
        before = (
            NoOpTransform() if image.shape[:2] == original else T.ResizeTransform(*original, *image.shape[:2])
        )
        versions = []
        for version in self.versions:
            pixels, transforms = T.apply_augmentations(version, np.copy(image))
            tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # a flip leaves negative strides
            versions.append({**dataset_dict, "image": tensor, "transforms": before + transforms})
        return versions


def scaled(resize: T.Augmentation, scale: float) -> T.Augmentation:
    """Return a resizing to ``scale`` times the side lengths of another.

    Raises:
        ConfigError: an augmentation that is neither Resize nor ResizeShortestEdge.
    """
    if isinstance(resize, T.Resize):
        return T.Resize([_pixels(side, scale) for side in resize.shape])
    if isinstance(resize, T.ResizeShortestEdge):
        edges = [_pixels(edge, scale) for edge in resize.short_edge_length]
        return T.ResizeShortestEdge(edges, _pixels(resize.max_size, scale), resize.sample_style)
    raise ConfigError(
        "test-time augmentation scales what resizes the test images: expected Resize or ResizeShortestEdge "
        f"in dataloader.test.mapper.augmentations, got {type(resize).__name__}"
    )


def _pixels(length: int, scale: float) -> int:
    return max(1, round(length * scale))


class DetectorWithAugmentation(GeneralizedRCNNWithTTA):
    """Apply detectron2's test-time augmentation to a detector built from a LazyConfig.

    Boxes of all versions are merged by NMS; masks are the mean over the versions.  Called like the detector.

    Args:
        model: a GeneralizedRCNN, of Mask R-CNN, cascade or Hybrid Task Cascade.
        mapper: makes the versions.
        batch_size: versions at once; 2 are an image and its flipped version, of one size.

    Raises:
        ConfigError: another kind of model.
    """

    def __init__(self, model: nn.Module, mapper: TestTimeMapper, batch_size: int = 2) -> None:
        if not isinstance(model, GeneralizedRCNN):
            raise ConfigError(
                f"test-time augmentation takes a two-stage detector of detectron2, got {type(model).__name__}"
            )
        heads = model.roi_heads
        predictors = heads.box_predictor
        predictor = predictors[-1] if isinstance(predictors, nn.ModuleList) else predictors
        cfg = get_cfg()  # detectron2 reads these few values from a yacs config
        cfg.MODEL.MASK_ON = heads.mask_on
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = heads.num_classes
        cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = predictor.test_nms_thresh
        cfg.TEST.DETECTIONS_PER_IMAGE = predictor.test_topk_per_image
        super().__init__(cfg, model, mapper, batch_size)


def make_tta_mapper(cfg: DictConfig) -> TestTimeMapper:
    """Build what makes the versions of ``train.tta`` from images as they are in their files.

    Raises:
        ConfigError: the config's test loader does more, or less, than resize.
    """
    tta, augmentations = cfg.train.tta, OmegaConf.select(cfg, "dataloader.test.mapper.augmentations")
    if not OmegaConf.is_list(augmentations) or len(augmentations) != 1:
        got = len(augmentations) if OmegaConf.is_list(augmentations) else augmentations
        raise ConfigError(
            "test-time augmentation needs exactly one augmentation in dataloader.test.mapper.augmentations, "
            f"the resizing; got {got}"
        )
    resize = instantiate(augmentations[0])
    return TestTimeMapper([scaled(resize, scale) for scale in tta.scales], tta.flip)


def with_test_time_augmentation(cfg: DictConfig, model: nn.Module) -> tuple[nn.Module, DictConfig]:
    """Return a config's detector and test loader for evaluation at the sizes of ``train.tta``.

    The loader gives images as they are in their files, so that every version is resized once.

    Raises:
        ConfigError: another kind of model, or see :func:`make_tta_mapper`.
    """
    loader = copy.deepcopy(cfg.dataloader.test)
    loader.mapper.augmentations = []
    return DetectorWithAugmentation(model, make_tta_mapper(cfg)), loader
