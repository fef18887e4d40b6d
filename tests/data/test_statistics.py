"""What a data set holds, counted by hand."""

import pytest
from pycocotools import mask as mask_util

from lesa_d2.data.statistics import (
    FEW,
    choose_samples,
    data_remarks,
    limits_of_ap,
    object_area,
    part_statistics,
)

SQUARE = [[0, 0, 10, 0, 10, 10, 0, 10]]


def record(*classes, width=100, height=50, **annotation):
    found = [{"category_id": k, "bbox": [0, 0, 40, 40], "iscrowd": 0, **annotation} for k in classes]
    return {"width": width, "height": height, "annotations": found}


def test_counts():
    records = [record(0, 0, 2), record(2, width=200), record(), record(1, iscrowd=1, height=80)]
    found = part_statistics(records, 4, seen=(50, 50))
    assert (found.images, found.empty_images, found.crowds) == (4, 2, 1)
    assert found.objects == (2, 0, 2, 0)
    assert found.class_images == (1, 0, 2, 0)
    assert found.widths == (100, 100, 200)
    assert found.heights == (50, 50, 80)
    # 1600 px² of 5000 seen on 2500: side 28.3; of 10000: 20
    assert found.seen_side == pytest.approx(800**0.5)


@pytest.mark.parametrize(
    ("side", "sizes"), [(31, (1, 0, 0)), (32, (0, 1, 0)), (95, (0, 1, 0)), (96, (0, 0, 1))]
)
def test_sizes_are_those_of_coco(side, sizes):
    assert part_statistics([record(0, bbox=[0, 0, side, side])], 1).sizes == sizes


def test_areas_of_every_kind_of_mask():
    box = {"bbox": [0, 0, 7, 3]}
    assert object_area(box) == 21
    assert object_area({**box, "segmentation": [*SQUARE, [20, 20, 24, 20, 20, 24]]}) == 108
    plain = {"size": [4, 5], "counts": [2, 6, 12]}
    assert object_area({**box, "segmentation": plain}) == 6
    assert object_area({**box, "segmentation": mask_util.frPyObjects(plain, 4, 5)}) == 6


def test_remarks_name_classes():
    train = part_statistics([record(*[0] * 20, 1, 2)], 4, seen=(10, 10))
    val = part_statistics([record(0, 1)], 4)
    text = "\n".join(data_remarks(train, val, ["often", "rare", "unseen", "none"]))
    assert "Without any object: none." in text
    assert "In training only, so not evaluated: unseen." in text
    assert "Rare in training (fewer than 20 objects): rare, unseen." in text
    assert "smaller than 6 pixels" in text  # 40 px of 100×50 px on 10×10
    assert "never learnt: unseen" in "\n".join(data_remarks(val, train, ["often", "rare", "unseen", "none"]))
    many = part_statistics([record(0)] * FEW, 1)
    assert data_remarks(many, many, ["often"]) == []


def test_few_pictures_and_more_objects_than_ap_counts_are_remarked():
    few = part_statistics([record(*[0] * 20)] * 4, 1)
    assert "AP on 4 pictures means little" in data_remarks(few, few, ["a"])[0]
    full = part_statistics([record(0)] * 49 + [record(*[0] * 101), record(*[0] * 130)], 1)
    (remark,) = data_remarks(few, full, ["a"])
    assert "2 pictures hold more than 100 objects, up to 130, in validation" in remark
    assert "test_topk_per_image" in remark
    assert limits_of_ap(50, [100]) == []
    assert "1 picture holds more than 99 objects" in limits_of_ap(50, [100], 99)[0]
    crowd = part_statistics([{**record(0), "annotations": record(*[0] * 200, iscrowd=1)["annotations"]}], 1)
    assert crowd.image_objects == (0,)


def test_samples_show_every_class():
    records = [record(0) for _ in range(50)] + [record(1)] + [record(0) for _ in range(49)]
    chosen = choose_samples(records, 4)
    assert len(chosen) == 4
    assert records[50] in [r for r in chosen if r is records[50]]
    assert len(choose_samples(records[:2], 4)) == 2
    assert choose_samples([record(k) for k in range(9)], 4) == [record(k) for k in range(4)]
