"""What files of annotations name cannot leave the data set's folder, unless the user allows it."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from lesa_d2.data import check_coco_json, open_folder
from lesa_d2.errors import DatasetError

KIND = "picture outside of the folder"


@pytest.fixture
def secret(tmp_path):
    """A picture that is not the data set's, with a file of labels beside it."""
    file = tmp_path / "private" / "secret.png"
    file.parent.mkdir()
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(file)
    file.with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return file


def spelled(file, folder, how):
    return {"absolute": str(file), "relative": os.path.relpath(file, folder)}[how]


@pytest.fixture
def opened(monkeypatch):
    """Every picture that is opened."""
    seen, really = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file, *a, **k: seen.append(str(file)) or really(file, *a, **k))
    return seen


@pytest.fixture
def coco_folder(tmp_path, write, coco, secret):
    def make(how):
        root, data = tmp_path / "data", coco(4)
        write(root / "labels.json", data, root / "images")
        data["images"][0]["file_name"] = spelled(secret, root / "images", how)
        (root / "labels.json").write_text(json.dumps(data))
        return root

    return make


@pytest.mark.parametrize("how", ["absolute", "relative"])
def test_coco(how, coco_folder, secret, opened, monkeypatch):
    root = coco_folder(how)
    problems = open_folder(root).problems()
    assert [(p.kind, p.image_id) for p in problems] == [(KIND, 1)]
    assert "LESA_TRUST_PATHS" in problems[0].fix
    with pytest.raises(DatasetError, match=KIND):
        open_folder(root).register("train")
    open_folder(root).register("train", drop_invalid=True)
    assert not any("secret" in os.path.realpath(file) for file in opened)
    monkeypatch.setenv("LESA_TRUST_PATHS", f"/nowhere:{secret.parent}")
    assert open_folder(root).problems() == []


def test_a_folder_is_not_one_whose_name_begins_so(coco_folder, secret, monkeypatch):
    monkeypatch.setenv("LESA_TRUST_PATHS", str(secret.parent)[:-1])
    assert [p.kind for p in open_folder(coco_folder("absolute")).problems()] == [KIND]


def test_a_json_file_with_its_folder_of_pictures(coco_folder):
    root = coco_folder("relative")
    assert [p.kind for p in check_coco_json(root / "labels.json", root / "images")] == [KIND]


def test_within_the_folder_names_may_go_up(tmp_path, write, coco):
    data = coco(4)
    write(tmp_path / "annotations/labels.json", data, tmp_path / "images")
    for image in data["images"]:
        image["file_name"] = f"../images/{image['file_name']}"
    (tmp_path / "annotations/labels.json").write_text(json.dumps(data))
    assert open_folder(tmp_path).problems() == []


def yolo(root, **content):
    for part in ("train", "val"):
        for name in ("a", "b"):
            (root / part).mkdir(parents=True, exist_ok=True)
            pixels = np.full((16, 20, 3), len(part) + ord(name), np.uint8)
            Image.fromarray(pixels).save(root / part / f"{name}.png")
            (root / part / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text(json.dumps({"train": "train", "val": "val", "names": ["nut"], **content}))
    return root


@pytest.mark.parametrize("how", ["absolute", "relative"])
@pytest.mark.parametrize("named", ["folder", "path", "list", "file"])
def test_yolo(how, named, tmp_path, secret, opened, monkeypatch):
    root = yolo(tmp_path / "data")
    place = spelled(secret.parent, root, how)
    if named == "list":
        (root / "list.txt").write_text(f"{secret if how == 'absolute' else place + '/secret.png'}\n")
    content = {
        "folder": {"val": place},
        "path": {"path": place, "val": "."},
        "list": {"val": "list.txt"},
        "file": {"val": f"{place}/secret.txt"},
    }[named]
    yolo(root, **content)
    problems = open_folder(root).problems()
    expected = (
        "missing image file" if (named, how) == ("list", "relative") else KIND
    )  # ".." is left out of lists
    assert expected in {p.kind for p in problems}
    assert not any("secret" in os.path.realpath(file) for file in opened)
    if named == "folder":
        monkeypatch.setenv("LESA_TRUST_PATHS", str(secret.parent))
        assert open_folder(root).problems() == []


def test_the_names_of_yolo_are_not_read_elsewhere(tmp_path, secret):
    root = yolo(tmp_path / "data", names=str(secret.with_suffix(".txt")))
    assert open_folder(root).classes == [str(secret.with_suffix(".txt"))]


@pytest.mark.parametrize("how", ["absolute", "relative"])
def test_labelme(how, tmp_path, secret, opened, monkeypatch):
    root = tmp_path / "data"
    root.mkdir()
    shape = {"label": "nut", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]}
    for name in ("a", "b", "c"):
        Image.fromarray(np.full((16, 20, 3), ord(name), np.uint8)).save(root / f"{name}.png")
        (root / f"{name}.json").write_text(json.dumps({"shapes": [shape], "imagePath": f"{name}.png"}))
    content = {"shapes": [shape], "imagePath": spelled(secret, root, how)}
    (root / "c.json").write_text(json.dumps(content))
    folder = open_folder(root)
    assert KIND in {p.kind for p in folder.problems()}
    assert not any("secret" in os.path.realpath(file) for file in opened)
    monkeypatch.setenv("LESA_TRUST_PATHS", str(secret.parent))
    assert open_folder(root).problems() == []
