"""Evaluate models: COCO metrics, files for COCO's evaluation server, accuracy, test-time augmentation."""

from .accuracy import TopAccuracy
from .build import build_evaluator
from .coco import CocoEvaluator
from .tta import DetectorWithAugmentation, TestTimeMapper, make_tta_mapper, with_test_time_augmentation

__all__ = [
    "CocoEvaluator",
    "DetectorWithAugmentation",
    "TestTimeMapper",
    "TopAccuracy",
    "build_evaluator",
    "make_tta_mapper",
    "with_test_time_augmentation",
]
