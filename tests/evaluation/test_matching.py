"""Matches, confusions and qualities, by hand."""

import numpy as np
import pytest

from lesa_d2.evaluation.matching import (
    BACKGROUND,
    IGNORED,
    best_threshold,
    by_quality,
    confusion_matrix,
    count,
    match_image,
    quality,
)


def match(scores, classes, objects, ious, crowd=None, name=1):
    ious = np.array(ious, float).reshape(len(scores), len(objects))
    crowd = np.array(crowd if crowd is not None else [False] * len(objects), bool)
    return match_image(name, np.array(scores), np.array(classes, int), np.array(objects, int), ious, crowd)


def test_greedy_by_score_whatever_the_classes():
    found = match([0.6, 0.9, 0.8], [0, 1, 0], [0, 1], [[0.9, 0.0], [0.6, 0.55], [0.7, 0.5]])
    assert found.scores.tolist() == [0.9, 0.8, 0.6]
    # the best takes the object that it overlaps most, the next one what is left, the last none
    assert found.objects.tolist() == [0, 1, BACKGROUND]
    assert found.ious.tolist() == [0.6, 0.5, 0]
    assert found.correct.tolist() == [False, False, False]
    assert confusion_matrix([found], 2).tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_too_little_overlap_is_none():
    found = match([0.9], [0], [0], [[0.49]])
    assert found.objects.tolist() == [BACKGROUND]
    assert confusion_matrix([found], 1).tolist() == [[0, 1], [1, 0]]


def test_detections_in_crowds_do_not_count():
    found = match([0.9, 0.8, 0.7], [0, 0, 1], [0, 0], [[0.1, 0.9], [0.8, 0.9], [0, 0]], [False, True])
    assert found.objects.tolist() == [IGNORED, 0, BACKGROUND]
    assert len(found.object_classes) == 1
    assert confusion_matrix([found], 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    counts = count([found])
    assert (counts.correct, counts.detections, counts.objects) == (1, 2, 1)


def test_an_image_with_crowds_alone_and_one_without_anything():
    crowd = match([0.9], [0], [0], [[0.9]], [True])
    assert crowd.objects.tolist() == [IGNORED]
    empty = match([], [], [], [])
    for image in (crowd, empty):
        assert quality(image) is None
        assert confusion_matrix([image], 1).sum() == 0
    assert by_quality([crowd, empty]) == []
    assert count([empty]).f1 == count([empty]).precision == count([empty]).recall == 0


def test_quality_is_f1_times_mean_iou():
    found = match([0.9, 0.8, 0.7], [0, 1, 0], [0, 1, 1], [[0.8, 0, 0], [0, 0.6, 0], [0, 0, 0]])
    assert quality(found) == pytest.approx(2 * 2 / 6 * 0.7)
    assert quality(match([0.9], [0], [], [])) == 0
    assert quality(match([], [], [0], [])) == 0


def test_worst_first():
    right = match([0.9], [0], [0], [[0.9]], name="right")
    missed = match([], [], [0], [], name="missed")
    all_wrong = match([0.9], [1], [0, 0], [[0.9, 0]], name="wrong")
    assert [image.image_id for image in by_quality([right, missed, all_wrong])] == [
        "wrong",
        "missed",
        "right",
    ]


def test_matches_above_a_score_are_those_of_the_rest_left_out():
    scores, ious = [0.9, 0.6, 0.3], [[0.6, 0.7], [0.9, 0.8], [0.9, 0.9]]
    above = match(scores, [0, 0, 0], [0, 0], ious).above(0.5)
    alone = match(scores[:2], [0, 0], [0, 0], ious[:2])
    assert above.objects.tolist() == alone.objects.tolist() == [1, 0]
    assert above.scores.tolist() == [0.9, 0.6]


def test_best_threshold():
    image = match([0.92, 0.72, 0.41], [0, 0, 0], [0, 0], [[0.9, 0], [0, 0.9], [0, 0]])
    assert best_threshold([image]) == 0.7  # the highest of those that keep two right ones and no wrong one
    wrong = match([0.92], [1], [0], [[0.9]])
    assert best_threshold([wrong]) == 0.05
