"""Match detections with objects at one IoU: confusions, the quality of an image, the best threshold of scores.

Shapes: D detections and G objects of an image, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

IOU = 0.5
BACKGROUND = -1  # the "object" of a detection that matches none
IGNORED = -2  # of a detection that lies in a crowd, which is neither right nor wrong

SCORES = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""Thresholds that :func:`best_threshold` tries."""


@dataclass(frozen=True)
class ImageMatches:
    """Hold the detections of an image, by descending score, each with the object that it matched.

    Attributes:
        image_id: of the data set.
        scores: (D,).
        classes: (D,) of the detections.
        objects: (D,) index into ``object_classes``, BACKGROUND or IGNORED.
        ious: (D,) with the object; 0 where there is none.
        object_classes: (G,) without crowds.
    """

    image_id: int | str
    scores: np.ndarray
    classes: np.ndarray
    objects: np.ndarray
    ious: np.ndarray
    object_classes: np.ndarray

    def above(self, score: float) -> "ImageMatches":
        """Return the detections of at least this score; their matches do not depend on those below."""
        kept = self.scores >= score
        return replace(
            self,
            scores=self.scores[kept],
            classes=self.classes[kept],
            objects=self.objects[kept],
            ious=self.ious[kept],
        )

    @property
    def correct(self) -> np.ndarray:
        """Tell for each detection, (D,), whether it matched an object of its class."""
        matched = self.objects >= 0
        right = np.zeros_like(matched)
        right[matched] = self.object_classes[self.objects[matched]] == self.classes[matched]
        return right

    @property
    def counted(self) -> np.ndarray:
        """Tell for each detection, (D,), whether it lies outside crowds and counts."""
        return self.objects != IGNORED


def match_image(
    image_id: int | str,
    scores: np.ndarray,
    classes: np.ndarray,
    object_classes: np.ndarray,
    ious: np.ndarray,
    crowd: np.ndarray,
    iou: float = IOU,
) -> ImageMatches:
    """Match greedily by score: a detection takes the free object that it overlaps most, whatever the classes.

    Args:
        image_id: of the data set.
        scores: (D,) of the detections.
        classes: (D,) of the detections.
        object_classes: (G,) of the objects.
        ious: (D, G); for a crowd, the share of the detection inside it.
        crowd: (G,) booleans; a detection without an object but in a crowd is ignored.
        iou: least overlap.
    """
    order = np.argsort(-scores, kind="stable")
    single, crowds = ious[order][:, ~crowd], ious[order][:, crowd]
    objects, overlaps = np.full(len(order), BACKGROUND), np.zeros(len(order))
    free = np.ones(single.shape[1], bool)
    for detection, row in enumerate(single):
        candidates = np.where(free, row, -1.0)
        best = int(candidates.argmax()) if len(row) else BACKGROUND
        if len(row) and candidates[best] >= iou:
            objects[detection], overlaps[detection], free[best] = best, row[best], False
        elif (crowds[detection] >= iou).any():
            objects[detection] = IGNORED
    return ImageMatches(image_id, scores[order], classes[order], objects, overlaps, object_classes[~crowd])


def confusion_matrix(matches: Sequence[ImageMatches], num_classes: int) -> np.ndarray:
    """Return counts (K+1, K+1) of objects' classes in rows and detections' in columns; the last is background."""
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    for image in matches:
        matched, alone = image.objects >= 0, image.objects == BACKGROUND
        np.add.at(matrix, (image.object_classes[image.objects[matched]], image.classes[matched]), 1)
        np.add.at(matrix[num_classes], image.classes[alone], 1)
        missed = np.delete(image.object_classes, image.objects[matched])
        np.add.at(matrix[:, num_classes], missed, 1)
    return matrix


@dataclass(frozen=True)
class Counts:
    """Count the right detections, all detections outside crowds, and the objects."""

    correct: int
    detections: int
    objects: int

    @property
    def precision(self) -> float:
        """Return the share of the detections that are right; 0 without any."""
        return self.correct / self.detections if self.detections else 0.0

    @property
    def recall(self) -> float:
        """Return the share of the objects that are detected; 0 without any."""
        return self.correct / self.objects if self.objects else 0.0

    @property
    def f1(self) -> float:
        """Return the harmonic mean of the two; 0 where there is neither a detection nor an object."""
        total = self.detections + self.objects
        return 2 * self.correct / total if total else 0.0


def count(matches: Sequence[ImageMatches]) -> Counts:
    """Count over all images."""
    return Counts(
        correct=sum(int(image.correct.sum()) for image in matches),
        detections=sum(int(image.counted.sum()) for image in matches),
        objects=sum(len(image.object_classes) for image in matches),
    )


def best_threshold(matches: Sequence[ImageMatches], scores: Sequence[float] = SCORES) -> float:
    """Return the one of ``scores`` with the highest F1; the highest of equals, the lowest where all are 0."""
    f1 = {score: count([image.above(score) for image in matches]).f1 for score in scores}
    return max(scores, key=lambda score: (f1[score], score if f1[score] else -score))


def quality(image: ImageMatches) -> float | None:
    """Return the F1 of an image times the mean IoU of its right detections, 0 to 1.

    None where there is neither an object nor a detection.
    """
    counts = count([image])
    if not counts.detections + counts.objects:
        return None
    return counts.f1 * float(image.ious[image.correct].mean()) if counts.correct else 0.0


def by_quality(matches: Sequence[ImageMatches]) -> list[ImageMatches]:
    """Sort images, the worst first; of equals, those with more mistakes first. Empty images are left out."""

    def key(image: ImageMatches) -> tuple[float, int]:
        counts = count([image])
        return quality(image) or 0.0, 2 * counts.correct - counts.detections - counts.objects

    return sorted((image for image in matches if quality(image) is not None), key=key)
