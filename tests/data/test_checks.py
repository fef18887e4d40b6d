"""Every kind of mistake is found, named once, and listed with all the others."""

import json
import logging

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from lesa_d2.data import DatasetProblemsError, Problem, check_coco_folder, check_coco_json
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
        ({"id": None}, "malformed annotation"),
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


def test_message_says_where_what_and_how_to_mend(check, coco, annotation, tmp_path):
    (problem,) = check(coco(1, [annotation(5, bbox=[12, 3, -10, 6])]))
    assert str(problem) == (
        f"{tmp_path / 'labels.json'}, image 1, annotation 5: reversed box: bbox [12, 3, -10, 6] in 20x16 px. "
        "Width and height must be positive; the corners are probably swapped."
    )


def test_annotation_without_a_box(check, coco, annotation):
    bad = annotation(2)
    del bad["bbox"]
    assert kinds(check(coco(1, [annotation(1), bad]))) == ["malformed annotation"]


def test_no_masks_at_all_is_allowed_and_said(check, coco, annotation, caplog):
    annotations = [annotation(i, segmentation=[]) for i in (1, 2)]
    with caplog.at_level(logging.WARNING):
        assert check(coco(1, annotations)) == []
    assert "masks missing" in caplog.text


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
    ],
)
def test_unusable_file(tmp_path, text, kind):
    (tmp_path / "labels.json").write_text(text)
    assert kinds(check_coco_json(tmp_path / "labels.json", tmp_path)) == [kind]


@pytest.mark.parametrize(
    "category", [{"id": "1", "name": "a"}, {"id": 2}, {"name": "a"}, {"id": 1, "name": "the id of the nuts"}]
)
def test_malformed_category(check, coco, category):
    data = coco(1)
    data["categories"].append(category)
    assert kinds(check(data)) == ["malformed category"]


@pytest.mark.parametrize("changes", [{"file_name": None}, {"width": 0}, {"height": 15.5}, {"id": None}])
def test_malformed_image(check, coco, annotation, changes, tmp_path):
    data = coco(2, [annotation(1)])
    good = json.loads(json.dumps(data))
    check(good)  # writes the pictures
    data["images"][1].update(changes)
    (tmp_path / "labels.json").write_text(json.dumps(data))
    assert kinds(check_coco_json(tmp_path / "labels.json", tmp_path / "images")) == ["malformed image"]


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


def test_wrong_image_size(check, coco):
    problems = check(coco(1), lambda root: Image.new("RGB", (16, 20)).save(root / "1.png"))
    assert kinds(problems) == ["wrong image size"]
    assert "16x20 px, the JSON says 20x16" in problems[0].what


def test_size_is_that_of_the_upright_picture(check, coco):
    def turn(root):
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying, to be shown upright
        Image.new("RGB", (16, 20)).save(root / "1.png", exif=exif)

    assert check(coco(1), turn) == []


def test_folder_error_lists_everything_at_once(tmp_path, coco, annotation, write):
    train = coco(2, [annotation(1, bbox=[5, 5, -1, 2]), annotation(2, 2, bbox=[5, 5, 2, 0])])
    val = coco(1, [annotation(1, bbox=[5, 5, -1, 3])], names=("seed",))
    for split, data in (("train", train), ("val", val)):
        write(tmp_path / "annotations" / f"instances_{split}.json", data, tmp_path / split)
    (tmp_path / "train" / "2.png").unlink()
    with pytest.raises(DatasetProblemsError) as caught:
        check_coco_folder(tmp_path)
    assert isinstance(caught.value, DatasetError)
    found = kinds(caught.value.problems)
    assert found == [
        "reversed box",
        "zero-area box",
        "missing image file",
        "reversed box",
        "categories differ",
    ]
    text = str(caught.value)
    assert text.startswith(f"5 problems in {tmp_path}\n")
    assert "reversed box (2): " in text
    assert "{1: 'nut'}" in text
    assert "{1: 'seed'}" in text


def test_folder_with_one_json_is_checked_once(tmp_path, coco, annotation, write):
    write(tmp_path / "a.json", coco(2, [annotation(1, bbox=[5, 5, -1, 2])]), tmp_path / "images")
    with pytest.raises(DatasetProblemsError) as caught:
        check_coco_folder(tmp_path)
    assert kinds(caught.value.problems) == ["reversed box"]


def test_good_folder_passes(tmp_path, coco, write):
    write(tmp_path / "a.json", coco(2), tmp_path / "images")
    check_coco_folder(tmp_path)


def test_unparsable_json_is_listed_once(tmp_path, coco, write):
    write(tmp_path / "a.json", coco(2), tmp_path / "images")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DatasetProblemsError) as caught:
        check_coco_folder(tmp_path)
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
