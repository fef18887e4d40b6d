"""The same data in YOLO's, Pascal VOC's and LabelMe's formats are the same objects; other formats are named."""

import base64
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from lesa_d2.data import LabelMeFolder, VocFolder, YoloFolder, folder_split, open_folder
from lesa_d2.errors import DatasetError

NAMES = ["fig", "hazel nut", "date"]
PARTS = ("train", "valid")


def pictures(seed=0):
    """For each picture (name, width, height, objects), an object being (class, polygon)."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(5):
        width, height = (64, 48) if index % 2 else (40, 56)
        objects = []
        for number in range(index):  # the first has none
            x, y = rng.uniform(1, 20, 2)
            side = rng.uniform(8, 18)
            corners = [x, y, x + side, y, x + side, y + side * 0.8, x, y + side]
            objects.append(((index + number) % len(NAMES), [round(float(v), 2) for v in corners]))
        found.append((f"p{seed}{index}.png", width, height, objects))
    return found


def box_of(polygon):
    xs, ys = polygon[::2], polygon[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def draw(folder, part_pictures, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name, width, height, _ in part_pictures:
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (height, width, 3), np.uint8))


def write_yolo(root, segments=True, style="data.yaml", names=NAMES):
    for seed, part in enumerate(PARTS):
        images, labels = (root / part / kind for kind in ("images", "labels"))
        draw(images, pictures(seed), seed)
        labels.mkdir()
        for name, width, height, objects in pictures(seed):
            if not objects and seed:
                continue  # a picture without a file of labels
            lines = []
            for category, polygon in objects:
                x0, y0, x1, y1 = box_of(polygon)
                values = polygon if segments else [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
                shares = [f"{v / (height if i % 2 else width):.6f}" for i, v in enumerate(values)]
                lines.append(" ".join([str(category), *shares]))
            (labels / name).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    shown = {"data.yaml": names, "dict": dict(enumerate(names))}[style]
    (root / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\nnc: {len(names)}\nnames: {json.dumps(shown)}\n".replace(
            '"0"', "0"
        )
        .replace('"1"', "1")
        .replace('"2"', "2")
    )


def voc_xml(name, width, height, objects, first=0, extra=""):
    entries = []
    for category, polygon in objects:
        x0, y0, x1, y1 = box_of(polygon)
        corners = f"<xmin>{x0 + first}</xmin><ymin>{y0 + first}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        entries.append(f"<object><name>{NAMES[category]}</name><bndbox>{corners}</bndbox></object>")
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{extra}<filename>{name}</filename>{size}{''.join(entries)}</annotation>"


def write_voc(root, style="folders", **options):
    for seed, part in enumerate(PARTS):
        flat = style == "folders"
        images, labels = (root / part,) * 2 if flat else (root / "JPEGImages", root / "Annotations")
        draw(images, pictures(seed), seed)
        labels.mkdir(exist_ok=True)
        for name, *rest in pictures(seed):
            (labels / name).with_suffix(".xml").write_text(voc_xml(name, *rest, **options))
        if not flat:
            listed = root / "ImageSets/Main" / {"train": "train.txt", "valid": "val.txt"}[part]
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text("\n".join(Path(name).stem for name, *_ in pictures(seed)) + "\n")


def write_labelme(root):
    for seed, part in enumerate(PARTS):
        draw(root / part, pictures(seed), seed)
        for name, width, height, objects in pictures(seed):
            shapes = [
                {
                    "label": NAMES[k],
                    "points": np.reshape(p, (-1, 2)).tolist(),
                    "shape_type": "polygon",
                    "group_id": None,
                }
                for k, p in objects
            ]
            content = {"version": "5.4", "shapes": shapes, "imagePath": name, "imageData": None}
            content |= {"imageHeight": height, "imageWidth": width}
            (root / part / name).with_suffix(".json").write_text(json.dumps(content))


WRITERS = {
    "yolo segments": (write_yolo, YoloFolder),
    "yolo boxes": (lambda root: write_yolo(root, segments=False), YoloFolder),
    "yolo dict": (lambda root: write_yolo(root, style="dict"), YoloFolder),
    "voc folders": (write_voc, VocFolder),
    "voc": (lambda root: write_voc(root, style="voc"), VocFolder),
    "labelme": (write_labelme, LabelMeFolder),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_same_objects(kind, tmp_path):
    write, of = WRITERS[kind]
    write(tmp_path)
    opened = open_folder(tmp_path)
    assert type(opened) is of
    opened.check()
    assert sorted(opened.classes) == sorted(NAMES)
    for seed, split in enumerate(("train", "val")):
        records = DatasetCatalog.get(folder_split(str(tmp_path), split))
        by_name = {Path(record["file_name"]).name: record for record in records}
        for name, width, height, objects in pictures(seed):
            record = by_name[name]
            assert (record["width"], record["height"]) == (width, height)
            assert len(record["annotations"]) == len(objects)
            for entry, (category, polygon) in zip(record["annotations"], objects, strict=True):
                assert opened.classes[entry["category_id"]] == NAMES[category]
                found = BoxMode.convert(entry["bbox"], entry["bbox_mode"], BoxMode.XYXY_ABS)
                assert found == pytest.approx(box_of(polygon), abs=1e-3)
                assert (
                    ("segmentation" in entry)
                    == opened.has_masks
                    == (kind not in ("yolo boxes", "voc", "voc folders"))
                )
                if opened.has_masks:
                    assert np.allclose(entry["segmentation"][0], polygon, atol=1e-3)


def test_one_part_of_yolo_is_split(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: train/images\nnames: [a, b, c]\n")
    assert open_folder(tmp_path).needs_split
    assert len(DatasetCatalog.get(folder_split(str(tmp_path), "val"))) == 1


def test_label_studios_yolo(tmp_path):
    write_yolo(tmp_path / "x")
    for kind in ("images", "labels"):
        (tmp_path / "x/train" / kind).rename(tmp_path / kind)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    (tmp_path / "notes.json").write_text('{"categories": [], "info": {}}')
    assert open_folder(tmp_path).classes == NAMES


def test_lists_of_files(tmp_path):
    write_yolo(tmp_path)
    for part in PARTS:
        files = sorted((tmp_path / part / "images").iterdir())
        (tmp_path / f"{part}.txt").write_text("\n".join(f"./{part}/images/{file.name}" for file in files))
    (tmp_path / "data.yaml").write_text("train: train.txt\nval: valid.txt\nnames: [a, b, c]\n")
    assert len(DatasetCatalog.get(folder_split(str(tmp_path), "train"))) == 5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x 0.5 0.5 0.1 0.1", "the class must be a whole number, got 'x'"),
        ("0 0.5 0.5 0.1", "got 3 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "got 5 numbers"),
        ("0 0.5 a 0.1 0.1", "could not convert string to float"),
        ("9 0.5 0.5 0.1 0.1", "category_id 9, known are [0, 1, 2]"),
        ("0 0.5 0.5 nan 0.1", "malformed box"),
        ("0 0.9 0.5 0.9 0.1", "box outside the image"),
    ],
)
def test_bad_lines_of_yolo(line, said, tmp_path):
    write_yolo(tmp_path, segments=False)
    file = tmp_path / "train/labels/p04.txt"
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(DatasetError) as caught:
        open_folder(tmp_path).check()
    assert said in str(caught.value)
    assert len(DatasetCatalog.get(folder_split(str(tmp_path), "train", drop_invalid=True))) == 5


def test_pixels_of_voc_itself_count_from_one(tmp_path):
    write_voc(
        tmp_path,
        first=1,
        extra="<folder>VOC2012</folder><source><database>The VOC2007 Database</database></source>",
    )
    (record,) = [
        r
        for r in DatasetCatalog.get(folder_split(str(tmp_path), "train"))
        if r["file_name"].endswith("p01.png")
    ]
    x0, y0, x1, y1 = box_of(pictures(0)[1][3][0][1])
    assert record["annotations"][0]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation><filename>p01.png</filename>", "malformed VOC file"),
        (
            "<annotation><filename>p01.png</filename><object><name>a</name></object></annotation>",
            "no <bndbox>",
        ),
        ('<?xml version="1.0" encoding="foo"?><annotation></annotation>', "unknown encoding"),
        (
            "<annotation><size><width>inf</width><height>1</height></size></annotation>",
            "not a number of pixels",
        ),
        (
            '<!DOCTYPE x [<!ENTITY a "b">]><annotation><filename>&a;</filename></annotation>',
            "defines entities",
        ),
    ],
)
def test_bad_files_of_voc(text, said, tmp_path):
    write_voc(tmp_path)
    (tmp_path / "train/p01.xml").write_text(text)
    with pytest.raises(DatasetError) as caught:
        open_folder(tmp_path).check()
    assert said in str(caught.value)
    assert len(DatasetCatalog.get(folder_split(str(tmp_path), "train", drop_invalid=True))) == 4


def test_kinds_of_shapes_of_labelme(tmp_path):
    write_labelme(tmp_path)
    file = tmp_path / "train/p01.json"
    content = json.loads(file.read_text())
    content["shapes"] = [
        {"label": "fig", "points": [[10, 10], [20, 22]], "shape_type": "rectangle"},
        {"label": "date", "points": [[30, 20], [35, 20]], "shape_type": "circle"},
        {"label": "fig", "points": [[5, 5]], "shape_type": "point"},
        {"label": "fig", "points": [[1, 30], [9, 30], [9, 38]], "group_id": 3},
        {"label": "fig", "points": [[40, 30], [50, 30], [50, 38]], "group_id": 3},
    ]
    file.write_text(json.dumps(content))
    opened = open_folder(tmp_path)
    opened.check()
    (record,) = [
        r
        for r in DatasetCatalog.get(folder_split(str(tmp_path), "train"))
        if r["file_name"].endswith("p01.png")
    ]
    boxes = [entry["bbox"] for entry in record["annotations"]]
    assert boxes[0] == [10, 10, 10, 12]
    assert boxes[1] == pytest.approx([25, 15, 10, 10])
    assert boxes[2] == [1, 30, 49, 8]
    assert len(record["annotations"][2]["segmentation"]) == 2
    assert any("1 of the kind point" in remark for remark in opened.remarks())


def test_rectangles_alone_are_boxes(tmp_path):
    write_labelme(tmp_path)
    for file in tmp_path.rglob("*.json"):
        content = json.loads(file.read_text())
        for shape in content["shapes"]:
            x0, y0, x1, y1 = box_of(np.ravel(shape["points"]).tolist())
            shape.update(points=[[x1, y1], [x0, y0]], shape_type="rectangle")
        file.write_text(json.dumps(content))
    opened = open_folder(tmp_path)
    opened.check()
    assert not opened.has_masks


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": None},
        {"shapes": [1]},
        {"shapes": [{"points": []}]},
        {"shapes": [{"label": "a", "points": [[1]]}]},
    ],
)
def test_bad_files_of_labelme(change, tmp_path):
    write_labelme(tmp_path)
    file = tmp_path / "train/p01.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DatasetError, match="malformed LabelMe file"):
        open_folder(tmp_path).check()
    assert len(DatasetCatalog.get(folder_split(str(tmp_path), "train", drop_invalid=True))) == 4


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("annotations.xml", "<annotations><version>1.1</version></annotations>", "CVAT for images"),
        ("via_project.json", '{"_via_img_metadata": {}}', "VGG Image Annotator"),
        ("a.json", '[{"image": "x.jpg", "annotations": []}]', "CreateML"),
        ("labels.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", "TensorFlow's CSV"),
        ("train.tfrecord", "", "TFRecord"),
        ("obj.data", "classes = 2\nnames = data/obj.names\n", "Darknet's YOLO"),
    ],
)
def test_unknown_format_is_named_with_what_converts_it(file, content, said, tmp_path):
    (tmp_path / file).write_text(content)
    with pytest.raises(DatasetError) as caught:
        open_folder(tmp_path)
    assert f"{file} looks like {said} format. To convert it: " in str(caught.value)


# ------------------------------------------------------------------------------------ what tools write oddly


def yolo_with(root, text):
    write_yolo(root)
    (root / "data.yaml").write_text(text)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("{2: c, 1: b, 0: a}", ["a", "b", "c"]),
        ("classes.txt", ["x", "y", "z"]),
        ("[1, 2.5, true]", ["1", "2.5", "True"]),
    ],
)
def test_names_of_yolo(names, classes, tmp_path):
    yolo_with(tmp_path, f"train: train/images\nval: valid/images\nnames: {names}\n")
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    assert open_folder(tmp_path).classes == classes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: train/images\nnames:\n", "names must be a list of names"),
        ("train: train/images\nnames: 3\n", "names must be a list of names"),
        ("train: train/images\nnames: {a: b}\n", "names must be a list of names"),
        ("train: 5\nnames: [a]\n", "train must be a folder"),
        ("train: [5]\nnames: [a]\n", "train must be a folder"),
        ("train: images/nothere\nnames: [a]\n", "names images/nothere for train, where no picture is"),
        ("a: &x [1, 2]\nb: [*x, *x]\ntrain: train/images\nnames: [a]\n", "not laid out in a known way"),
        ("[" * 100_000, "not laid out in a known way"),
    ],
)
def test_yaml_that_cannot_be_used(text, said, tmp_path):
    yolo_with(tmp_path, text)
    with pytest.raises(DatasetError, match=said):
        open_folder(tmp_path)


def test_pictures_of_a_neighbour_are_not_read(tmp_path):
    for name in ("outer/fruits", "outer"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        write_yolo(tmp_path / name)
    records = DatasetCatalog.get(folder_split(str(tmp_path / "outer/fruits"), "train"))
    assert all(record["file_name"].startswith(f"{tmp_path}/outer/fruits/train/") for record in records)


@pytest.mark.parametrize(
    "train", ["/content/fruits/train/images", "C:\\fruits\\train\\images", "./train/images"]
)
def test_paths_of_another_machine(train, tmp_path):
    yolo_with(tmp_path, f"train: '{train}'\nval: valid/images\nnames: [a, b, c]\n")
    assert len(DatasetCatalog.get(folder_split(str(tmp_path), "train"))) == 5


def test_keypoints_of_yolo_are_not_taken_for_polygons(tmp_path):
    write_yolo(tmp_path, segments=False)
    for file in tmp_path.rglob("labels/*.txt"):
        file.write_text(
            "".join(f"{line} 0.5 0.5 0.6 0.6\n" for line in file.read_text().splitlines() if line)
        )
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 2]\n")
    opened = open_folder(tmp_path)
    opened.check()
    assert not opened.has_masks
    assert "keypoints are not" in opened.remarks()[0]


def test_polygons_among_boxes_of_yolo_are_boxes(tmp_path):
    write_yolo(tmp_path, segments=False)
    with (tmp_path / "train/labels/p04.txt").open("a") as file:
        file.write("0 0.1 0.1 0.3 0.1 0.3 0.3\n")
    opened = open_folder(tmp_path)
    opened.check()
    assert not opened.has_masks
    assert any("1 lines are polygons and 10 are boxes" in remark for remark in opened.remarks())


def test_a_listed_picture_that_is_not_there(tmp_path):
    yolo_with(tmp_path, "train: train.txt\nval: valid/images\nnames: [a, b, c]\n")
    (tmp_path / "train.txt").write_text("train/images/p01.png\ntrain/images/gone.png\n")
    with pytest.raises(DatasetError, match=r"missing image file(?s:.*)gone\.png"):
        open_folder(tmp_path).check()


@pytest.mark.parametrize("make", ["mkdir", "mkfifo", "link"])
def test_labels_that_are_no_file(make, tmp_path):
    write_yolo(tmp_path)
    file = tmp_path / "train/labels/p01.txt"
    file.unlink()
    {"mkdir": file.mkdir, "mkfifo": lambda: os.mkfifo(file), "link": lambda: file.symlink_to("gone")}[make]()
    with pytest.raises(DatasetError, match="no file that can be read"):
        open_folder(tmp_path).check()


def test_problems_name_the_file_of_labels(tmp_path):
    write_yolo(tmp_path, segments=False)
    with (tmp_path / "train/labels/p04.txt").open("a") as file:
        file.write("0 0.5 0.5 0 0.1\n")
    with pytest.raises(DatasetError, match=r"train/labels/p04\.txt, image 5"):
        open_folder(tmp_path).check()


def test_a_byte_order_mark_in_labels(tmp_path):
    write_yolo(tmp_path)
    file = tmp_path / "train/labels/p04.txt"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    open_folder(tmp_path).check()


def test_trainval_and_a_folder_above_of_voc(tmp_path):
    (tmp_path / "VOCdevkit/VOC2007").mkdir(parents=True)
    write_voc(tmp_path / "VOCdevkit/VOC2007", style="voc")
    lists = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / "test.txt")
    opened = open_folder(tmp_path / "VOCdevkit")
    opened.check()
    assert not opened.needs_split
    assert any("the one for test is used" in remark for remark in opened.remarks())


@pytest.mark.parametrize("name", ["/home/bob/p01.png", "C:\\pictures\\p01.png", "p01", "", "other.png"])
def test_file_names_of_voc(name, tmp_path):
    write_voc(tmp_path)
    file = tmp_path / "train/p01.xml"
    file.write_text(file.read_text().replace("p01.png", name))
    open_folder(tmp_path).check()


def test_files_of_other_kinds_are_passed_over(tmp_path):
    write_labelme(tmp_path / "labelme")
    (tmp_path / "labelme/package.json").write_text('{"name": "x"}')
    (tmp_path / "labelme/train/info.json").write_text('{"a": 1}')
    opened = open_folder(tmp_path / "labelme")
    opened.check()
    assert isinstance(opened, LabelMeFolder)
    assert "2 JSON files without shapes" in opened.remarks()[0]


def test_pixel_masks_of_labelme(tmp_path):
    write_labelme(tmp_path)
    file = tmp_path / "train/p01.json"
    content = json.loads(file.read_text())
    png = cv2.imencode(".png", np.tri(8, 6, dtype=np.uint8) * 255)[1].tobytes()
    shape = {
        "label": "fig",
        "points": [[10, 20], [15, 27]],
        "shape_type": "mask",
        "mask": base64.b64encode(png).decode(),
    }
    file.write_text(json.dumps(content | {"shapes": [shape]}))
    opened = open_folder(tmp_path)
    opened.check()
    (entry,) = [a for a in opened.train.read().annotations if isinstance(a["segmentation"], dict)]
    mask = mask_util.decode(entry["segmentation"])
    assert np.array_equal(mask[20:28, 10:16], np.tri(8, 6))
    assert mask.sum() == np.tri(8, 6).sum()
    assert entry["bbox"] == [10, 20, 6, 8]


def test_lists_of_voc_that_name_no_file_are_passed_over(tmp_path):
    write_voc(tmp_path, style="voc")
    for file in (tmp_path / "ImageSets/Main").iterdir():
        file.write_text("gone\n")
    assert len(DatasetCatalog.get(folder_split(str(tmp_path), "train"))) == 8
