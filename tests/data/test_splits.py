"""Splits by a seed are stratified and keep copies together; copies in both parts are named."""

import shutil

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st

from lesa_d2.data import folder_split, open_folder
from lesa_d2.data.coco.splits import grouped, original_of, validation_ids


def load(folder, split, **arguments):
    return DatasetCatalog.get(folder_split(str(folder), split, **arguments))


def names(records):
    return {record["file_name"].rpartition("/")[2] for record in records}


@given(
    classes=st.lists(st.frozensets(st.integers(0, 3)), min_size=2, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
@settings(max_examples=300, deadline=None)
def test_size_and_objects(classes, fraction, seed):
    images = [(index, of, f"{index}.png") for index, of in enumerate(classes)]
    if sum(map(bool, classes)) < 2:
        return
    val = validation_ids(grouped(images, {}), fraction, seed)
    count = len(images)
    assert len(val) == min(max(round(fraction * count), 1), count - 1)
    sides = [set().union(*(of for i, of, _ in images if (i in val) == side)) for side in (True, False)]
    assert all(sides)


@pytest.mark.parametrize("seed", range(10))
def test_a_rare_class_is_on_both_sides(seed, tmp_path, coco, annotation, write):
    entries = [annotation(i, i, category_id=2 if i > 37 else 1) for i in range(1, 41)]
    write(tmp_path / "labels.json", coco(40, entries, names=("nut", "rare")), tmp_path / "images")
    for split, number in (("train", 32), ("val", 8)):
        records = load(tmp_path, split, seed=seed)
        assert len(records) == number
        assert {a["category_id"] for record in records for a in record["annotations"]} == {0, 1}


def test_augmented_copies_stay_together(tmp_path, coco, write):
    data = coco(40)
    for index, image in enumerate(data["images"]):
        image["file_name"] = f"p{index // 4}_jpg.rf.{index:032x}.png"
    write(tmp_path / "labels.json", data, tmp_path / "images")
    train, val = load(tmp_path, "train"), load(tmp_path, "val")
    assert not {original_of(name) for name in names(train)} & {original_of(name) for name in names(val)}
    assert (len(train), len(val)) == (32, 8)
    assert (
        "30 of 40 pictures are copies of others: the split keeps copies together."
        in open_folder(tmp_path).remarks()
    )


def test_equal_pictures_stay_together(tmp_path, coco, write):
    write(tmp_path / "labels.json", coco(20), tmp_path / "images")
    for copy in range(11, 21):
        shutil.copy(tmp_path / f"images/{copy - 10}.png", tmp_path / f"images/{copy}.png")
    val = {int(name[:-4]) for name in names(load(tmp_path, "val"))}
    assert {(number - 1) % 10 for number in val} & {(n - 1) % 10 for n in set(range(1, 21)) - val} == set()


def test_copies_of_one_picture_are_split_all_the_same(tmp_path, coco, write):
    write(tmp_path / "labels.json", coco(4), tmp_path / "images")
    for copy in (2, 3, 4):
        shutil.copy(tmp_path / "images/1.png", tmp_path / f"images/{copy}.png")
    assert len(load(tmp_path, "train")) == 3
    assert any("validation has some, too" in remark for remark in open_folder(tmp_path).remarks())


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("x_jpg.rf.0a1b.jpg", "x"),
        ("x.jpg.rf.0a1b.jpg", "x"),
        ("a/IMG_2_JPG.rf.0A.jpg", "a/IMG_2"),
        ("x_png.rf.7.png", "x"),
        ("x.jpg", "x.jpg"),
        ("jpg.rf.x", "jpg.rf.x"),
    ],
)
def test_original_of_a_copy(name, original):
    assert original_of(name) == original


# ---------------------------------------------------------------------------------------------- two parts


@pytest.fixture
def pair(tmp_path, coco, write):
    def build(train_names, val_names):
        for part, files in (("train", train_names), ("valid", val_names)):
            data = coco(len(files))
            for image, file in zip(data["images"], files, strict=True):
                image["file_name"] = file
            write(tmp_path / part / "_annotations.coco.json", data, tmp_path / part)
            for index, file in enumerate(files):  # other pictures in each part
                noise = np.random.default_rng([index, ord(part[0])]).integers(0, 256, (16, 20, 3), np.uint8)
                cv2.imwrite(str(tmp_path / part / file), noise)
        return tmp_path

    return build


def test_equal_pictures_in_both_parts(pair):
    folder = pair(["a.png", "b.png", "c.png"], ["d.png", "e.png"])
    assert open_folder(folder).remarks() == []
    shutil.copy(folder / "train/b.png", folder / "valid/e.png")
    (remark,) = open_folder(folder).remarks()
    assert remark.startswith("1 of 2 pictures for validation are for training as well (e.png)")
    assert MetadataCatalog.get(folder_split(str(folder), "val")).remarks == [remark]


def test_augmented_copies_in_both_parts(pair):
    folder = pair(["a_jpg.rf.1.png", "b_jpg.rf.2.png"], ["a_jpg.rf.3.png", "c_jpg.rf.4.png"])
    (remark,) = open_folder(folder).remarks()
    assert remark.startswith("1 of 2 pictures for validation are augmented copies of pictures for training")


def test_one_file_in_both_parts(tmp_path, coco, write):
    for part in ("train", "val"):
        write(tmp_path / f"{part}.json", coco(2), tmp_path / "images")
    assert open_folder(tmp_path).remarks()[0].startswith("2 of 2 pictures for validation")


def test_an_entry_for_each_box_is_merged(tmp_path, coco, annotation, write):
    data = coco(6)
    for image in data["images"]:
        image["file_name"] = f"{(image['id'] + 1) // 2}.png"
    write(tmp_path / "labels.json", data, tmp_path / "images")
    opened = open_folder(tmp_path)
    opened.check()
    records = load(tmp_path, "train") + load(tmp_path, "val")
    assert [len(record["annotations"]) for record in records] == [2, 2, 2]
    assert "labels.json: 3 images name a file that another image names" in opened.remarks()[0]


def test_an_object_labelled_twice_is_counted(tmp_path, coco, annotation, write):
    data = coco(2, [annotation(1, 1), annotation(2, 1), annotation(3, 2)])
    write(tmp_path / "labels.json", data, tmp_path / "images")
    assert "labels.json: 1 objects are labelled twice" in open_folder(tmp_path).remarks()[0]


def test_a_changed_picture_is_compared_again(pair):
    folder = pair(["a.png", "b.png"], ["c.png", "d.png"])
    assert open_folder(folder).remarks() == []
    (folder / "valid/c.png").write_bytes((folder / "train/a.png").read_bytes())
    assert len(open_folder(folder).remarks()) == 1


def test_a_changed_picture_is_checked_again(tmp_path, coco, write):
    write(tmp_path / "labels.json", coco(3), tmp_path / "images")
    assert open_folder(tmp_path).problems() == []
    (tmp_path / "images/1.png").write_bytes(b"no picture")
    assert [p.kind for p in open_folder(tmp_path).problems()] == ["image that cannot be decoded"]
    (tmp_path / "images/1.png").unlink()
    assert [p.kind for p in open_folder(tmp_path).problems()] == ["missing image file"]


def test_names_follow_what_is_left(tmp_path, coco, write):
    """The evaluator keeps files under this name."""
    write(tmp_path / "labels.json", coco(6), tmp_path / "images")
    before = folder_split(str(tmp_path), "train", drop_invalid=True)
    (tmp_path / "images/1.png").unlink()
    assert folder_split(str(tmp_path), "train", drop_invalid=True) != before
