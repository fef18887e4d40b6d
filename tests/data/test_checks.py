"""Every kind of mistake is found, named once, and listed with all the others."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from lesa_d2.data import DatasetProblemsError, Problem, check_coco_json, open_folder
from lesa_d2.data.problems import MAX_SHOWN
from lesa_d2.errors import DatasetError

# pycocotools under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def check(tmp_path, write):
    """Write a COCO dict with its pictures, spoil the files if wanted, and check them."""

    def run(data, spoil=lambda image_root: None):
        write(tmp_path / "labels.json", data, tmp_path / "images")
        spoil(tmp_path / "images")
        return check_coco_json(tmp_path / "labels.json", tmp_path / "images")

    return run


def kinds(problems):
    return [problem.kind for problem in problems]


def test_good_file_passes(check, coco, annotation):
    rle = mask_util.encode(np.asfortranarray(np.eye(16, 20, dtype=np.uint8)))
    compressed = {"size": [16, 20], "counts": rle["counts"].decode()}
    crowd = {"size": [16, 20], "counts": [100, 20, 200]}
    annotations = [
        annotation(1),
        annotation(2, segmentation=compressed),
        annotation(3, segmentation=crowd, iscrowd=1),
        annotation(4, bbox=[-1, 0, 21.9, 16.9]),  # a rounding error beyond the border is tolerated
    ]
    assert check(coco(3, annotations)) == []  # images 2 and 3 have no objects: fine


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"bbox": [1, 2, 3]}, "malformed box"),
        ({"bbox": [1, 2, 3, "4"]}, "malformed box"),
        ({"bbox": [1, 2, 3, float("nan")]}, "malformed box"),
        ({"bbox": [1, 2, float("inf"), 3]}, "malformed box"),
        ({"bbox": None}, "malformed box"),
        ({"bbox": [12, 3, -10, 6]}, "reversed box"),
        ({"bbox": [2, 9, 10, -6]}, "reversed box"),
        ({"bbox": [2, 3, 10, 0]}, "zero-area box"),
        ({"bbox": [2, 3, 19.1, 6]}, "box outside the image"),
        ({"bbox": [2, 3, 10, 14.1]}, "box outside the image"),
        ({"bbox": [-1.1, 3, 10, 6]}, "box outside the image"),
        ({"bbox": [2, -1.1, 10, 6]}, "box outside the image"),
        ({"segmentation": [[1, 2, 3, 4]]}, "polygon with fewer than 3 points"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "malformed polygon"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "malformed polygon"),
        ({"segmentation": [[[1, 2], [3, 4], [5, 6]]]}, "malformed polygon"),
        ({"segmentation": "polygon"}, "malformed polygon"),
        ({"segmentation": {"size": [20, 16], "counts": [320]}}, "malformed RLE"),  # width first
        ({"segmentation": {"size": [16, 20], "counts": [300]}}, "malformed RLE"),
        ({"segmentation": {"size": [16, 20], "counts": [-1, 321]}}, "malformed RLE"),
        ({"segmentation": {"size": [16, 20], "counts": "oooo0"}}, "malformed RLE"),
        ({"segmentation": {"size": [16, 20], "counts": None}}, "malformed RLE"),
        ({"segmentation": {"size": [16, 20], "counts": "é"}}, "malformed RLE"),
        ({"image_id": 99}, "unknown image"),
        ({"category_id": 99}, "unknown category"),
        ({"category_id": "1"}, "unknown category"),
        ({"ignore": 1}, "ignored annotation"),
        ({"segmentation": []}, "masks missing"),
        ({"segmentation": [1, 2, 11, 2, 11, 8, 1, 8]}, "flat segmentation"),
        ({"segmentation": [1, 2, 11, 2, 11, 8, 1, float("nan")]}, "flat segmentation"),
        ({"segmentation": [[-12, 3, -2, 3, -2, 9]]}, "polygon outside the image"),
        ({"segmentation": [[22, 3, 29, 3, 29, 9], [2, -9, 12, -9, 12, -3]]}, "polygon outside the image"),
        ({"segmentation": [[18, -20, 40, -20, 40, 2]]}, "polygon outside the image"),  # past the corner
        ({"segmentation": [[2, 19, 1e12, 19, 1e12, 1e12]]}, "polygon outside the image"),
        ({"segmentation": [[2, 3, 12, 3, 7, 3]]}, "zero-area polygon"),
        ({"segmentation": [[2, 3, 12, 3, 12, 9, 12, 3]]}, "zero-area polygon"),  # there and back
        ({"segmentation": [[5, 5, 5, 5, 5, 5]]}, "zero-area polygon"),
        ({"id": None}, "malformed annotation"),
        ({"id": True}, "malformed annotation"),
        ({"category_id": 1.5}, "malformed annotation"),
        ({"category_id": 10**30}, "unknown category"),
        ({"category_id": "nut"}, "unknown category"),
        ({"image_id": "1"}, "unknown image"),
        ({"iscrowd": "0"}, "malformed iscrowd"),
        ({"iscrowd": 2}, "malformed iscrowd"),
        ({"iscrowd": [1]}, "malformed iscrowd"),
        ({"bbox": [True, 2, 3, 4]}, "malformed box"),
        ({"bbox": [2, 3, 10**400, 6]}, "malformed box"),
        ({"bbox": [2, 3, 1e308, 1e308]}, "box outside the image"),
        ({"bbox": [15, 12, 4, 3]}, "box apart from its mask"),
        ({"segmentation": [[2, 3, 12, 3, 12, True]]}, "malformed polygon"),
        ({"segmentation": [[2, 3, 12, 3, 12, 10**400]]}, "malformed polygon"),
        ({"segmentation": [[2, 3, 12, 3, 12, 1e300]]}, "polygon outside the image"),
        ({"segmentation": [[-1e9, 3, 12, 3, 12, 9]]}, "polygon outside the image"),
        ({"segmentation": [[-1e300, -1e300, 1e300, 3, 12, 1e300]]}, "polygon outside the image"),
        ({"segmentation": {"size": [16, 20], "counts": [320]}}, "mask without a pixel"),
        ({"segmentation": {"size": [16, 20], "counts": [320, 0]}}, "mask without a pixel"),
        ({"segmentation": {"size": [16, 20], "counts": [10**30, -(10**30), 320]}}, "malformed RLE"),
        ({"segmentation": {"size": [16, 20], "counts": [True, 319]}}, "malformed RLE"),
        ({"segmentation": {"size": [16, 20], "counts": "o" * 10000}}, "malformed RLE"),
        ({"keypoints": [[2, 3, 1]]}, "malformed keypoints"),
        ({"keypoints": [2, 3]}, "malformed keypoints"),
        ({"image_id": [1]}, "malformed annotation"),
    ],
)
def test_bad_annotation(check, coco, annotation, changes, kind):
    bad = annotation(7, **changes)
    problems = check(coco(1, [annotation(1), bad]))
    assert kinds(problems) == [kind]
    if kind != "malformed annotation":
        assert problems[0].annotation_id == 7
        assert problems[0].image_id == bad["image_id"]


def test_message_says_where_what_and_how_to_fix(check, coco, annotation, tmp_path):
    (problem,) = check(coco(1, [annotation(5, bbox=[12, 3, -10, 6])]))
    assert str(problem) == (
        f"{tmp_path / 'labels.json'}, image 1, annotation 5: reversed box: bbox [12, 3, -10, 6] in 20x16 px. "
        "Width and height must be positive; the corners are probably swapped."
    )


def test_annotation_without_a_box(check, coco, annotation):
    bad = annotation(2)
    del bad["bbox"]
    assert kinds(check(coco(1, [annotation(1), bad]))) == ["malformed annotation"]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[2, 2, 12, 12, 12, 2, 2, 12]],  # a bow tie: its signed area is zero
        [[5.1, 5.1, 5.4, 5.1, 5.4, 5.4]],  # less than a pixel
        [[-3, 3, 12, 3, 12, 9]],
        [[2, 3, 12, 3, 12, 9], [2, 3, 2, 3, 2, 3]],  # the object is still there
        [[-5, 3, 30, 3, 30, 9, -5, 9]],
        [[i % 10, i // 10, i % 10 + 0.9, i // 10, i % 10, i // 10 + 0.9] for i in range(100)]
        * 3,  # 300 polygons
    ],
)
def test_odd_but_usable_polygons(check, coco, annotation, segmentation):
    assert check(coco(1, [annotation(segmentation=segmentation)])) == []


def test_flat_segmentation_says_what_to_do(check, coco, annotation):
    (problem,) = check(coco(1, [annotation(segmentation=[1, 2, 11, 2, 11, 8])]))
    assert problem.fix.startswith("Wrap it in a list")


def test_only_crowds_is_nothing_to_learn_from(check, coco, annotation):
    crowd = {"size": [16, 20], "counts": [100, 20, 200]}
    data = coco(1, [annotation(i, iscrowd=1, segmentation=crowd) for i in (1, 2)])
    (problem,) = check(data)
    assert problem.kind == "only crowd annotations"
    assert problem.annotation_id is None


@pytest.mark.parametrize("empty", [{"segmentation": []}, {"segmentation": None}])
def test_no_masks_at_all_is_allowed(check, coco, annotation, empty):
    assert check(coco(1, [annotation(i, **empty) for i in (1, 2)])) == []


def test_duplicate_ids(check, coco, annotation):
    data = coco(2, [annotation(3, 1), annotation(3, 1), annotation(4, 1)])
    data["images"][1]["id"] = 1
    problems = check(data)
    assert kinds(problems) == ["duplicate image id", "duplicate annotation id"]
    assert problems[0].image_id == 1
    assert problems[1].annotation_id == 3


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_empty_list(check, coco, key):
    assert f"no {key}" in kinds(check(coco(1, **{key: []})))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"images": [', "unreadable JSON"),
        ("[]", "not a COCO file"),
        ('{"images": [], "annotations": []}', "not a COCO file"),
        ('{"images": {}, "annotations": [], "categories": []}', "not a COCO file"),
        ('{"images": [1], "annotations": [], "categories": []}', "not a COCO file"),
        ('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}", "unreadable JSON"),
        ('{"images": ' + "1" * 5000 + "}", "unreadable JSON"),
        ("\ufeff{", "unreadable JSON"),
    ],
)
def test_unusable_file(tmp_path, text, kind):
    (tmp_path / "labels.json").write_text(text)
    assert kinds(check_coco_json(tmp_path / "labels.json", tmp_path)) == [kind]


@pytest.mark.parametrize(
    "category",
    [
        {"id": "1", "name": "a"},
        {"id": True, "name": "a"},
        {"id": 2},
        {"name": "a"},
        {"id": 10**30, "name": "a"},
        {"id": 2, "name": None},
        {"id": 1, "name": "the id of the nuts"},
    ],
)
def test_malformed_category(check, coco, category):
    data = coco(1)
    data["categories"].append(category)
    assert kinds(check(data)) == ["malformed category"]


@pytest.mark.parametrize(
    "changes",
    [
        {"file_name": None},
        {"file_name": " "},
        {"width": 0},
        {"height": 15.5},
        {"height": 10**30},
        {"height": "16"},
        {"width": True},
        {"id": None},
        {"id": True},
    ],
)
def test_malformed_image(check, coco, annotation, changes, tmp_path):
    data = coco(2, [annotation(1)])
    good = json.loads(json.dumps(data))
    check(good)  # writes the pictures
    data["images"][1].update(changes)
    (tmp_path / "labels.json").write_text(json.dumps(data))
    assert kinds(check_coco_json(tmp_path / "labels.json", tmp_path / "images")) == ["malformed image"]


def test_byte_order_mark(check, coco, tmp_path):
    data = coco(1)
    check(data)  # writes the pictures
    (tmp_path / "labels.json").write_text(json.dumps(data), encoding="utf-8-sig")
    assert check_coco_json(tmp_path / "labels.json", tmp_path / "images") == []


@pytest.mark.parametrize(
    ("mode", "suffix"), [("I;16", "png"), ("I;16", "tiff"), ("I;16B", "tiff"), ("I", "tiff"), ("F", "tiff")]
)
def test_more_than_8_bits(check, coco, mode, suffix):
    data = coco(1)
    data["images"][0]["file_name"] = f"1.{suffix}"
    (problem,) = check(data, lambda root: Image.new(mode, (20, 16), 900).save(root / f"1.{suffix}"))
    assert problem.kind == "more than 8 bits"
    assert problem.image_id == 1
    assert "8 bits" in problem.fix


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_8_bit_modes(check, coco, mode):
    assert check(coco(1), lambda root: Image.new(mode, (20, 16)).save(root / "1.png")) == []


def test_missing_image_file(check, coco):
    problems = check(coco(2), lambda root: (root / "2.png").unlink())
    assert kinds(problems) == ["missing image file"]
    assert problems[0].image_id == 2


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
@pytest.mark.parametrize("keep", [0, 0.9])
def test_truncated_image(check, coco, keep, image_format):
    def truncate(root):
        noise = np.random.default_rng(0).integers(0, 255, (16, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "1.png", image_format)
        data = (root / "1.png").read_bytes()
        (root / "1.png").write_bytes(data[: int(keep * len(data))])

    assert kinds(check(coco(1), truncate)) == ["image that cannot be decoded"]


@pytest.mark.parametrize(
    ("replace", "reason"),
    [(os.mkfifo, "pipe"), (Path.mkdir, "folder"), (lambda file: file.symlink_to("gone"), "link to gone")],
)
def test_what_is_no_file(check, coco, replace, reason):
    """Nothing waits at a pipe."""

    def spoil(root):
        (root / "1.png").unlink()
        replace(root / "1.png")

    (problem,) = check(coco(1), spoil)
    assert problem.kind == ("missing image file" if "link" in reason else "image that cannot be decoded")
    assert reason in problem.what


def test_wrong_image_size(check, coco):
    problems = check(coco(1), lambda root: Image.new("RGB", (16, 20)).save(root / "1.png"))
    assert kinds(problems) == ["wrong image size"]
    assert "16x20 px, the annotations say 20x16" in problems[0].what


def test_size_is_that_of_the_upright_picture(check, coco):
    def turn(root):
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying, to be shown upright
        Image.new("RGB", (16, 20)).save(root / "1.png", exif=exif)

    assert check(coco(1), turn) == []


def folder_kinds(folder):
    with pytest.raises(DatasetProblemsError) as caught:
        open_folder(folder).check()
    return kinds(caught.value.problems)


@pytest.fixture
def pair(tmp_path, write):
    """A folder with a file each for training and validation."""

    def build(train, val):
        for split, data in (("train", train), ("val", val)):
            write(tmp_path / split / "_annotations.coco.json", data, tmp_path / split)
        return tmp_path

    return build


def boxes_only(annotation, empty):
    entry = annotation(1)
    del entry["segmentation"]
    return {**entry, "segmentation": []} if empty else entry


@pytest.mark.parametrize("empty", [True, False])
def test_folder_without_masks_passes(pair, coco, annotation, empty):
    boxes = coco(1, [boxes_only(annotation, empty)])
    open_folder(pair(boxes, boxes)).check()


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("masks_in", ["training", "validation"])
def test_masks_in_one_part_only(pair, coco, annotation, empty, masks_in):
    boxes = coco(1, [boxes_only(annotation, empty)])
    folder = pair(coco(1), boxes) if masks_in == "training" else pair(boxes, coco(1))
    assert folder_kinds(folder) == ["masks in one split only"]


@pytest.mark.parametrize("where", ["train", "val"])
def test_part_without_an_object(pair, coco, annotation, where):
    crowds = coco(1, [annotation(1, iscrowd=1)])
    folder = pair(crowds, coco(1)) if where == "train" else pair(coco(1), crowds)
    assert folder_kinds(folder) == ["only crowd annotations"]


@pytest.mark.parametrize("where", ["train", "val"])
def test_part_without_annotations(pair, coco, where):
    folder = pair(coco(1, []), coco(1)) if where == "train" else pair(coco(1), coco(1, []))
    assert folder_kinds(folder) == ["no annotations"]


def test_one_json_with_objects_in_one_image_only(tmp_path, coco, annotation, write):
    data = coco(3, [annotation(1, 2), annotation(2, 2), annotation(3, 1, iscrowd=1)])
    write(tmp_path / "a.json", data, tmp_path / "images")
    assert folder_kinds(tmp_path) == ["too few images to split"]


def test_one_json_without_annotations_is_said_once(tmp_path, coco, write):
    write(tmp_path / "a.json", coco(3, []), tmp_path / "images")
    assert folder_kinds(tmp_path) == ["no annotations"]


def test_folder_error_lists_everything_at_once(tmp_path, coco, annotation, write):
    train = coco(2, [annotation(1, bbox=[5, 5, -1, 2]), annotation(2, 2, bbox=[5, 5, 2, 0])])
    val = coco(1, [annotation(1, bbox=[5, 5, -1, 3])], names=("seed",))
    for split, data in (("train", train), ("val", val)):
        write(tmp_path / "annotations" / f"instances_{split}.json", data, tmp_path / split)
    (tmp_path / "train" / "2.png").unlink()
    with pytest.raises(DatasetProblemsError) as caught:
        open_folder(tmp_path).check()
    assert isinstance(caught.value, DatasetError)
    found = kinds(caught.value.problems)
    assert found == [
        "missing image file",
        "reversed box",
        "zero-area box",
        "reversed box",
        "categories differ",
    ]
    text = str(caught.value)
    assert text.startswith(f"5 problems in {tmp_path}\n")
    assert "reversed box (2): " in text
    assert "{1: 'nut'}" in text
    assert "{1: 'seed'}" in text


def test_folder_with_one_json_is_checked_once(tmp_path, coco, annotation, write):
    data = coco(2, [annotation(1, bbox=[5, 5, -1, 2]), annotation(2, 2)])
    write(tmp_path / "a.json", data, tmp_path / "images")
    assert folder_kinds(tmp_path) == ["reversed box"]


def test_good_folder_passes(tmp_path, coco, write):
    write(tmp_path / "a.json", coco(2), tmp_path / "images")
    open_folder(tmp_path).check()


def test_unparsable_json_is_listed_once(tmp_path, coco, write):
    write(tmp_path / "a.json", coco(2), tmp_path / "images")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DatasetProblemsError) as caught:
        open_folder(tmp_path).check()
    assert kinds(caught.value.problems) == ["unreadable JSON"]


def test_long_lists_are_shortened_in_the_text_only():
    problems = [
        Problem("reversed box", "a.json", f"bbox {i}", "Swap it.", 1, i) for i in range(MAX_SHOWN + 3)
    ]
    error = DatasetProblemsError("folder", problems)
    lines = str(error).splitlines()
    assert len(lines) == 2 + MAX_SHOWN + 1
    assert lines[-1] == "  and 3 more"
    assert error.problems == problems
