"""Test-time augmentation: detections of several sizes of an image, flipped too, merged by detectron2."""

from collections.abc import Sequence

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from fvcore.transforms import NoOpTransform
from torch import nn

from ..errors import ConfigError


class TestTimeMapper:
    """Versions of an image: each of the resizings, plain and flipped.

    Args:
        resizings: detectron2's augmentations, one a version.
        flip: also flip each horizontally.
    """

    __test__ = False  # pytest would take it for a test

    def __init__(self, resizings: Sequence[T.Augmentation], flip: bool = True) -> None:
        self.versions = [[resize] for resize in resizings]
        if flip:
            self.versions += [[resize, T.RandomFlip(prob=1.0)] for resize in resizings]

    def __call__(self, dataset_dict: dict) -> list[dict]:
        """A model input with "image" (C, H, W) -> one for each version, with its "transforms"."""
        image = dataset_dict["image"].permute(1, 2, 0).numpy()
        original = (dataset_dict["height"], dataset_dict["width"])
        before = (
            NoOpTransform() if image.shape[:2] == original else T.ResizeTransform(*original, *image.shape[:2])
        )
        found = []
        for version in self.versions:
            pixels, transforms = T.apply_augmentations(version, np.copy(image))
            tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
            found.append({**dataset_dict, "image": tensor, "transforms": before + transforms})
        return found


class DetectorWithAugmentation(GeneralizedRCNNWithTTA):
    """detectron2's test-time augmentation for a detector built from a LazyConfig.

    Boxes of all versions are merged by NMS; masks are the mean over the versions.  Called like the detector.

    Args:
        model: a GeneralizedRCNN, of Mask R-CNN, cascade or Hybrid Task Cascade.
        mapper: makes the versions.
        batch_size: versions at once; those of one size go together best.

    Raises:
        ConfigError: another kind of model.
    """

    def __init__(self, model: nn.Module, mapper: TestTimeMapper, batch_size: int = 1) -> None:
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
