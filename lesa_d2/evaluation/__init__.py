"""Evaluating detectors: COCO metrics, files for COCO's evaluation server, test-time augmentation."""

from .coco import CocoEvaluator
from .scores import highest_score
from .tta import DetectorWithAugmentation, TestTimeMapper, make_tta_mapper, with_test_time_augmentation

__all__ = [
    "CocoEvaluator",
    "DetectorWithAugmentation",
    "TestTimeMapper",
    "highest_score",
    "make_tta_mapper",
    "with_test_time_augmentation",
]
