"""The exports of common tools load as they come, and what does not fit says why."""

import json
import os
import unicodedata

import pytest
from detectron2.data import DatasetCatalog

from lesa_d2.data import folder_split, open_folder
from lesa_d2.errors import DatasetError

# For each tool: the JSON files by part, and where the pictures of that part are; None is split by a seed.
LAYOUTS = {
    "coco": {
        "train": ("annotations/instances_train2017.json", "train2017"),
        "val": ("annotations/instances_val2017.json", "val2017"),
    },
    "tiny coco, ultralytics, datumaro": {
        "train": ("annotations/instances_train2017.json", "images/train2017"),
        "val": ("annotations/instances_val2017.json", "images/val2017"),
    },
    "annotations/train.json": {
        "train": ("annotations/train.json", "train"),
        "val": ("annotations/val.json", "val"),
    },
    "capitals": {
        "train": ("Annotations/instances_Train.json", "images/Train"),
        "val": ("Annotations/instances_Validation.json", "images/Validation"),
    },
    "roboflow": {
        "train": ("train/_annotations.coco.json", "train"),
        "val": ("valid/_annotations.coco.json", "valid"),
    },
    "roboflow, images/ in parts": {
        "train": ("train/_annotations.coco.json", "train/images"),
        "val": ("valid/_annotations.coco.json", "valid/images"),
    },
    "roboflow, train only": {None: ("train/_annotations.coco.json", "train")},
    "cvat": {None: ("annotations/instances_default.json", "images")},
    "cvat, images/default": {None: ("annotations/instances_default.json", "images/default")},
    "cvat subsets": {
        "train": ("annotations/instances_train.json", "images/train"),
        "val": ("annotations/instances_validation.json", "images/validation"),
    },
    "one file and images/": {None: ("labels.json", "images")},
    "one file among its pictures": {None: ("_annotations.coco.json", ".")},
    "fiftyone": {None: ("labels.json", "data")},
    "fiftyone, parts": {
        "train": ("train/labels.json", "train/data"),
        "val": ("validation/labels.json", "validation/data"),
    },
    "mmdetection's balloon": {
        "train": ("train/annotation_coco.json", "train"),
        "val": ("val/annotation_coco.json", "val"),
    },
    "parts below annotations/": {
        "train": ("annotations/train/coco.json", "images/train"),
        "val": ("annotations/val/coco.json", "images/val"),
    },
    "train.json at the top": {"train": ("train.json", "images"), "val": ("val.json", "images")},
    "parts below coco/": {
        "train": ("coco/train/a.json", "coco/train"),
        "val": ("coco/test/b.json", "coco/test"),
    },
}


def arrange(folder, layout, write, coco, prefix=""):
    """Write four images for each part, named differently in each; returns the records' paths that are right."""
    expected = {}
    for number, (part, (json_file, images)) in enumerate(layout.items()):
        data = coco(4)
        for image in data["images"]:
            image["file_name"] = f"p{number}_{image['id']}.png"
        write(folder / json_file, data, folder / images)
        expected[part] = sorted(str((folder / images / i["file_name"]).resolve()) for i in data["images"])
        for image in data["images"]:
            image["file_name"] = prefix + image["file_name"]
        (folder / json_file).write_text(json.dumps(data))
    return expected


def loaded(folder, split):
    records = DatasetCatalog.get(folder_split(str(folder), split))
    return sorted(str(os.path.realpath(record["file_name"])) for record in records)


@pytest.mark.parametrize(
    "prefix", ["", "images/", "/home/someone/pictures/", "C:\\data\\pictures\\", "../images/"]
)
@pytest.mark.parametrize("tool", LAYOUTS)
def test_layout(tool, prefix, tmp_path, write, coco):
    expected = arrange(tmp_path, LAYOUTS[tool], write, coco, prefix)
    opened = open_folder(tmp_path)
    opened.check()
    assert opened.needs_split == (None in expected)
    if opened.needs_split:
        assert sorted(loaded(tmp_path, "train") + loaded(tmp_path, "val")) == expected[None]
    else:
        assert (loaded(tmp_path, "train"), loaded(tmp_path, "val")) == (expected["train"], expected["val"])


@pytest.mark.parametrize("tool", ["coco", "roboflow", "tiny coco, ultralytics, datumaro"])
def test_equal_names_in_both_parts(tool, tmp_path, write, coco):
    """Each part has its own 1.png, 2.png and so on."""
    for number, (json_file, images) in enumerate(LAYOUTS[tool].values()):
        write(tmp_path / json_file, coco(3 + number), tmp_path / images)
    for part, (_, images) in LAYOUTS[tool].items():
        assert {os.path.dirname(file) for file in loaded(tmp_path, part)} == {str(tmp_path / images)}


def test_the_folder_of_the_annotations_alone(tmp_path, write, coco):
    write(tmp_path / "annotations/instances_default.json", coco(4), tmp_path / "images")
    assert len(loaded(tmp_path / "annotations", "train")) == 3


def test_labels_of_other_tools_are_no_coco_files(tmp_path, write, coco):
    arrange(tmp_path, LAYOUTS["mmdetection's balloon"], write, coco)
    (tmp_path / "train/via_region_data.json").write_text('{"a.jpg": {"regions": {}}}')
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "train/._annotation_coco.json").write_bytes(b"\x00\x05")
    (tmp_path / ".idea").mkdir()
    (tmp_path / ".idea/instances_train.json").write_text("{}")
    assert len(loaded(tmp_path, "train")) == 4


def test_cocos_other_annotations(tmp_path, write, coco):
    arrange(tmp_path, LAYOUTS["coco"], write, coco)
    for kind in ("captions", "person_keypoints", "stuff", "panoptic"):
        for part in ("train", "val"):
            (tmp_path / f"annotations/{kind}_{part}2017.json").write_text('{"images": [], "annotations": []}')
    assert len(loaded(tmp_path, "train")) == 4


def test_a_part_for_test(tmp_path, write, coco):
    arrange(tmp_path, LAYOUTS["coco"], write, coco)
    with pytest.raises(DatasetError, match="no part for test"):
        loaded(tmp_path, "test")
    write(tmp_path / "annotations/instances_test2017.json", coco(2), tmp_path / "test2017")
    assert len(loaded(tmp_path, "test")) == 2
    assert len(loaded(tmp_path, "val")) == 4


def test_one_file_to_split_and_one_for_test(tmp_path, write, coco):
    write(tmp_path / "labels.json", coco(5), tmp_path / "images")
    write(tmp_path / "test.json", coco(2), tmp_path / "test")
    assert [len(loaded(tmp_path, split)) for split in ("train", "val", "test")] == [4, 1, 2]


@pytest.mark.parametrize(
    ("on_disk", "in_file"),
    [
        ("a.JPG", "a.jpg"),
        ("a.jpeg", "a.JPEG"),
        ("a b.png", "a%20b.png"),
        ("a b.png", "a b.png "),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
        (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "é.png")),
        ("sub/a.png", "sub\\a.png"),
    ],
)
def test_near_names(on_disk, in_file, tmp_path, write, coco):
    data = coco(3)
    write(tmp_path / "labels.json", data, tmp_path / "images")
    (tmp_path / "images" / on_disk).parent.mkdir(exist_ok=True)
    (tmp_path / "images/1.png").rename(tmp_path / "images" / on_disk)
    data["images"][0]["file_name"] = in_file
    (tmp_path / "labels.json").write_text(json.dumps(data))
    opened = open_folder(tmp_path)
    opened.check()
    assert str(tmp_path / "images" / on_disk) in loaded(tmp_path, "train") + loaded(tmp_path, "val")
    if "\\" not in in_file:
        assert any(repr(in_file) in remark for remark in opened.remarks())


def test_two_near_names_are_not_guessed_between(tmp_path, write, coco):
    data = coco(3)
    write(tmp_path / "labels.json", data, tmp_path / "images")
    for name in ("1.PNG", "1.Png"):
        (tmp_path / "images" / name).write_bytes((tmp_path / "images/1.png").read_bytes())
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(DatasetError, match=r"missing image file(?s:.*)near it: 1\.PNG, 1\.Png"):
        open_folder(tmp_path).check()


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "x" * 5000, "../../etc/passwd"])
def test_names_that_no_file_has(name, tmp_path, write, coco):
    data = coco(3)
    write(tmp_path / "labels.json", data, tmp_path / "images")
    data["images"][0]["file_name"] = name
    (tmp_path / "labels.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="missing image file"):
        open_folder(tmp_path).check()


def test_no_picture_at_all_is_one_problem(tmp_path, coco):
    (tmp_path / "labels.json").write_text(json.dumps(coco(50)))
    with pytest.raises(DatasetError, match=r"^1 problem in .*\nno picture found"):
        open_folder(tmp_path).check()


def test_links_are_followed_once(tmp_path, write, coco):
    write(tmp_path / "data/labels.json", coco(4), tmp_path / "elsewhere")
    (tmp_path / "data/images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    assert len(loaded(tmp_path / "data", "train")) == 3


def test_description(tmp_path, write, coco):
    arrange(tmp_path, LAYOUTS["coco"], write, coco)
    (tmp_path / "train2017/p0_1.png").unlink()
    first, second = open_folder(tmp_path).description()
    assert first == (
        "training: COCO in annotations/instances_train2017.json, 4 images and 4 annotations; 3 pictures in train2017/"
    )
    assert second.startswith("validation: ")


# ---------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            ["a.json", "b.json"],
            "2 files in COCO's format, whose names do not say their parts: a.json, b.json",
        ),
        (["val.json"], "no file for training beside val.json"),
        (["test/_annotations.coco.json"], "no file for training beside test/_annotations.coco.json"),
        (["train_a.json", "train_b.json", "val.json"], "2 files for train: train_a.json, train_b.json"),
        (["a.json", "val.json"], "no file is clearly for training: a.json, val.json"),
    ],
)
def test_unclear_layout(files, said, tmp_path, write, coco):
    for file in files:
        write(tmp_path / file, coco(2), tmp_path / "images")
    with pytest.raises(DatasetError) as caught:
        open_folder(tmp_path)
    assert said in str(caught.value)
    assert "found: " in str(caught.value)


def test_dangling_link(tmp_path):
    (tmp_path / "labels.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(DatasetError, match=r"not a file that can be read: labels\.json"):
        open_folder(tmp_path)


def test_pipe_called_json(tmp_path):
    os.mkfifo(tmp_path / "labels.json")
    with pytest.raises(DatasetError, match=r"not a file that can be read: labels\.json"):
        open_folder(tmp_path)


# --------------------------------------------------------------------- several places for the same names


def test_drawn_previews_beside_the_pictures(tmp_path, write, coco):
    data = coco(4)
    write(tmp_path / "labels.json", data, tmp_path / "images")
    write(tmp_path / "labels.json", data, tmp_path / "annotated")
    assert {os.path.dirname(file) for file in loaded(tmp_path, "train")} == {str(tmp_path / "images")}
    assert "annotated/ has the same names" in open_folder(tmp_path).remarks()[0]


def test_pictures_in_several_folders(tmp_path, write, coco):
    write(tmp_path / "labels.json", coco(4), tmp_path / "cam1")
    (tmp_path / "cam2").mkdir()
    (tmp_path / "cam1/4.png").rename(tmp_path / "cam2/4.png")
    open_folder(tmp_path).check()
    assert str(tmp_path / "cam2/4.png") in loaded(tmp_path, "train") + loaded(tmp_path, "val")


def test_an_address_as_name(tmp_path, write, coco):
    data = coco(3)
    write(tmp_path / "labels.json", data, tmp_path / "images")
    for image in data["images"]:
        image["file_name"] = f"https://storage.example/{image['file_name']}?signature=1"
    (tmp_path / "labels.json").write_text(json.dumps(data))
    assert len(loaded(tmp_path, "train")) == 2


def test_lvis_names_an_address_only(tmp_path, write, coco):
    data = coco(3)
    write(tmp_path / "labels.json", data, tmp_path / "train2017")
    for image in data["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    (tmp_path / "labels.json").write_text(json.dumps(data))
    assert len(loaded(tmp_path, "train")) == 2


def test_another_extension_is_hinted_at(tmp_path, write, coco):
    data = coco(3)
    write(tmp_path / "labels.json", data, tmp_path / "images")
    data["images"][0]["file_name"] = "1.jpg"
    (tmp_path / "labels.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"near it: 1\.png"):
        open_folder(tmp_path).check()


@pytest.mark.parametrize("broken", ["valid/_annotations.coco.json", "valid"])
def test_a_part_that_is_a_link_to_nothing(broken, tmp_path, write, coco):
    arrange(tmp_path, LAYOUTS["roboflow, train only"], write, coco)
    (tmp_path / broken).parent.mkdir(exist_ok=True)
    (tmp_path / broken).symlink_to(tmp_path / "gone")
    with pytest.raises(DatasetError, match=f"{broken} cannot be read"):
        open_folder(tmp_path)


def test_files_of_no_part_are_named(tmp_path, write, coco):
    arrange(tmp_path, LAYOUTS["annotations/train.json"], write, coco)
    write(tmp_path / "annotations/more.json", coco(2), tmp_path / "more")
    assert "annotations/more.json" in open_folder(tmp_path).remarks()[0]


def test_capitals(tmp_path, write, coco):
    arrange(tmp_path, LAYOUTS["annotations/train.json"], write, coco)
    for name in ("train", "val"):
        (tmp_path / f"annotations/{name}.json").rename(tmp_path / f"annotations/{name.upper()}.JSON")
    assert len(loaded(tmp_path, "val")) == 4


def test_a_file_that_may_not_be_read(tmp_path, write, coco, monkeypatch):
    write(tmp_path / "labels.json", coco(3), tmp_path / "images")
    opened = open_folder(tmp_path)

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DatasetError, match=r"unreadable file(?s:.*)Permission denied"):
        opened.check()
    os.utime(tmp_path / "labels.json", (1, 1))
    with pytest.raises(DatasetError, match=r"labels\.json cannot be read: Permission denied"):
        open_folder(tmp_path)
