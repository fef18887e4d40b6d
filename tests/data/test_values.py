"""Every reader sees the same value, whatever it was written as."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from lesa_d2.data import folder_split, open_folder
from lesa_d2.data.coco.document import parse
from lesa_d2.data.coco.masks import read_mask


def records(folder, annotations, coco, write, change=lambda data: None):
    data = coco(2, annotations)
    change(data)
    write(folder / "train/_annotations.coco.json", data, folder / "train")
    write(folder / "val/_annotations.coco.json", coco(2), folder / "val")
    open_folder(folder).check()
    name = folder_split(str(folder), "train")
    return DatasetCatalog.get(name), MetadataCatalog.get(name)


@pytest.mark.parametrize(
    ("written", "read"), [(None, 0), (False, 0), (0.0, 0), (0, 0), (1, 1), (True, 1), (1.0, 1)]
)
def test_iscrowd(written, read, tmp_path, coco, annotation, write):
    rle = {"size": [16, 20], "counts": [100, 20, 200]}
    crowd = annotation(1, 1, iscrowd=written, segmentation=rle, bbox=[6, 4, 2, 12])
    (first, _), metadata = records(tmp_path, [crowd, annotation(2, 2)], coco, write)
    assert first["annotations"][0]["iscrowd"] == read
    assert type(first["annotations"][0]["iscrowd"]) is int
    assert hasattr(metadata, "json_file") == (type(written) is int)


@pytest.mark.parametrize("written", [None, -5, 0, "60", [], True, float("nan"), float("inf"), 1e9, "absent"])
def test_area_without_sense_is_computed(written, tmp_path, coco, annotation, write):
    changed = annotation(1, 1, area=written)
    if written == "absent":
        del changed["area"]
    _, metadata = records(tmp_path, [changed, annotation(2, 2)], coco, write)
    assert not hasattr(metadata, "json_file")  # the evaluator reads what every other reader does
    document = open_folder(tmp_path).train.read()
    assert [a["area"] for a in document.annotations] == [60, 60]


def test_area_of_a_box(tmp_path, coco, annotation, write):
    changed = annotation(1, 1, area=None, segmentation=[], bbox=[1, 1, 3, 4])
    data = coco(2, [changed])
    write(tmp_path / "labels.json", data, tmp_path / "images")
    assert open_folder(tmp_path).train.read().annotations[0]["area"] == 12


@pytest.mark.parametrize("ids", [("a", "b"), (1, "b"), (1.0, 2.0), (10**30, 2), (-1, 2)])
def test_ids_of_images(ids, tmp_path, coco, annotation, write):
    def change(data):
        for image, entry, image_id in zip(data["images"], data["annotations"], ids, strict=True):
            image["id"] = entry["image_id"] = image_id

    found, _ = records(tmp_path, [annotation(1, 1), annotation(2, 2)], coco, write, change)
    assert all(type(record["image_id"]) is int and record["image_id"] >= 0 for record in found)
    assert [len(record["annotations"]) for record in found] == [1, 1]


@pytest.mark.parametrize("ids", [("a", "b"), (1, "b"), (0, 1), (1.0, 2.0), (10**30, 2)])
def test_ids_of_annotations(ids, tmp_path, coco, annotation, write):
    found, _ = records(tmp_path, [annotation(ids[0], 1), annotation(ids[1], 2)], coco, write)
    assert [len(record["annotations"]) for record in found] == [1, 1]


def test_sizes_written_with_a_point(tmp_path, coco, annotation, write):
    def change(data):
        data["images"][0]["width"] = 20.0
        data["categories"][0]["id"] = 1.0

    (first, _), _ = records(tmp_path, [annotation(1, 1), annotation(2, 2)], coco, write, change)
    assert (first["width"], type(first["width"])) == (20, int)


def test_ids_that_restart_in_every_image(tmp_path, coco, annotation, write, caplog):
    write(tmp_path / "labels.json", coco(4, [annotation(1, i) for i in (1, 2, 3, 4)]), tmp_path / "images")
    assert [p.kind for p in open_folder(tmp_path).problems()] == ["duplicate annotation id"] * 3
    found = [
        r
        for s in ("train", "val")
        for r in DatasetCatalog.get(folder_split(str(tmp_path), s, drop_invalid=True))
    ]
    assert [len(record["annotations"]) for record in found] == [1] * 4  # numbered afresh, none is left out
    assert "left out 0 of 4 images and 0 of 4 annotations" in caplog.text


@pytest.mark.parametrize("above", [["a"], None, 3, {"x": 1}])
def test_supercategory_of_another_type(above, tmp_path, coco, write):
    data = coco(3)
    data["categories"][0]["supercategory"] = above
    write(tmp_path / "labels.json", data, tmp_path / "images")
    open_folder(tmp_path).check()
    assert open_folder(tmp_path).classes == ["nut"]


@pytest.mark.parametrize("name", ["nut", "nuts of all kinds"])
def test_roboflows_root_category(name, tmp_path, coco, write):
    data = coco(3)
    data["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})
    write(tmp_path / "labels.json", data, tmp_path / "images")
    open_folder(tmp_path).check()
    assert open_folder(tmp_path).classes == ["nut"]


def test_class_of_crowds_only(tmp_path, coco, annotation, write):
    rle = {"size": [16, 20], "counts": [100, 20, 200]}
    crowds = [
        annotation(10 + i, i, category_id=2, iscrowd=1, segmentation=rle, bbox=[6, 4, 2, 12]) for i in (1, 2)
    ]
    data = coco(4, [annotation(i, i) for i in (1, 2, 3, 4)] + crowds, names=("nut", "brush"))
    write(tmp_path / "labels.json", data, tmp_path / "images")
    (problem,) = open_folder(tmp_path).problems()
    assert "all 2 annotations of 'brush' have iscrowd 1" in problem.what
    assert "CVAT" in problem.fix
    assert len(DatasetCatalog.get(folder_split(str(tmp_path), "train", drop_invalid=True))) == 3


@pytest.mark.parametrize("seed", range(20))
def test_rle_as_pycocotools_reads_it(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2).tolist()
    pixels = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    pixels[rng.integers(height), rng.integers(width)] = 1
    encoded = mask_util.encode(np.asfortranarray(pixels))
    mask = read_mask({"size": [height, width], "counts": encoded["counts"].decode()}, width, height)
    rows, columns = np.nonzero(pixels)
    assert mask.area == pixels.sum()
    assert mask.bounds == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_long_values_are_cut(tmp_path, coco, annotation, write):
    write(
        tmp_path / "a.json",
        coco(3, [annotation(1, 1, iscrowd="x" * 10**5), annotation(2, 2), annotation(3, 3)]),
        tmp_path / "images",
    )
    (problem,) = open_folder(tmp_path).problems()
    assert len(str(problem)) < 500
    json.dumps(problem.what)


@pytest.mark.parametrize(
    "text", ["123456789012345678901", "NaN", "1e999", '"\\ud800"', "-0", "0.1", "-9223372036854775809"]
)
def test_numbers_and_texts_are_those_of_python(text, tmp_path):
    """Two ids of more than 64 bits stay two, although orjson rounds them."""
    (tmp_path / "x.json").write_text(f"[{text}]")
    (read,), expected = parse(tmp_path / "x.json").data, json.loads(text)
    assert (type(read), repr(read)) == (type(expected), repr(expected))
