"""Layouts are recognised, ids become contiguous, splits are disjoint and complete."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from lesa_d2.data import DatasetProblemsError, folder_split, open_folder
from lesa_d2.errors import ConfigError, DatasetError


@pytest.fixture
def single(tmp_path, coco, write):
    """A folder of ten images with one JSON."""
    folder = tmp_path / "single"
    write(folder / "labels.json", coco(10), folder / "images")
    return folder


def write_pair(folder, write, train, val, style="coco"):
    parts = {
        "coco": {
            "train": ("annotations/instances_train2017.json", "train2017"),
            "val": ("annotations/instances_val2017.json", "val2017"),
        },
        "roboflow": {
            "train": ("train/_annotations.coco.json", "train"),
            "val": ("valid/_annotations.coco.json", "valid"),
        },
    }[style]
    for split, data in (("train", train), ("val", val)):
        json_file, images = parts[split]
        write(folder / json_file, data, folder / images)
    return folder


def load(folder, split, **arguments):
    return DatasetCatalog.get(folder_split(str(folder), split, **arguments))


def image_ids(records):
    return [record["image_id"] for record in records]


# ------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("name", ["val", "test"])
def test_roboflow_validation_under_another_name(tmp_path, coco, write, name):
    for split, count in (("train", 2), (name, 1)):
        write(tmp_path / split / "_annotations.coco.json", coco(count), tmp_path / split)
    assert open_folder(tmp_path).val.image_root == tmp_path / name


def test_missing_folder(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        open_folder(tmp_path / "nowhere")


def test_unknown_layout_says_what_is_there_and_what_is_accepted(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("a.json", "pictures/b.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DatasetError) as caught:
        open_folder(tmp_path)
    text = str(caught.value)
    assert "found: a.json, pictures/, pictures/b.json, 1 other file\n" in text
    assert "no JSON file in COCO's format" in text
    assert "in annotations/ or beside the pictures" in text


def test_empty_folder(tmp_path):
    with pytest.raises(DatasetError, match="the folder is empty"):
        open_folder(tmp_path)


# ------------------------------------------------------------------------------------------- classes


def test_ids_that_are_not_contiguous(tmp_path, coco, annotation, write):
    """End to end: ids 7, 40, 3 become classes 1, 2, 0 in ascending order of id."""
    categories = [{"id": 7, "name": "b"}, {"id": 40, "name": "c"}, {"id": 3, "name": "a"}]
    annotations = [annotation(i, category_id=c) for i, c in ((1, 40), (2, 3), (3, 7))]
    data = coco(1, annotations, categories=categories)
    write_pair(tmp_path, write, data, data)
    assert open_folder(tmp_path).classes == ["a", "b", "c"]
    (record,) = load(tmp_path, "train")
    assert [a["category_id"] for a in record["annotations"]] == [2, 0, 1]
    metadata = MetadataCatalog.get(folder_split(str(tmp_path), "train"))
    assert metadata.thing_classes == ["a", "b", "c"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 40: 2}


def roboflow_categories(root_id=0):
    return [
        {"id": root_id, "name": "food", "supercategory": "none"},
        {"id": 1, "name": "fig", "supercategory": "food"},
        {"id": 2, "name": "nut", "supercategory": "food"},
    ]


def test_unused_root_category_is_dropped(tmp_path, coco, annotation, write):
    data = coco(1, [annotation(1, category_id=2)], categories=roboflow_categories())
    write_pair(tmp_path, write, data, data, "roboflow")
    assert open_folder(tmp_path).classes == ["fig", "nut"]
    name = folder_split(str(tmp_path), "val")
    ((only,),) = [record["annotations"] for record in DatasetCatalog.get(name)]
    assert only["category_id"] == 1
    # The JSON still has three categories, so the evaluation must not read it.
    assert not hasattr(MetadataCatalog.get(name), "json_file")


@pytest.mark.parametrize("where", ["train", "val"])
def test_root_category_in_use_is_kept(tmp_path, coco, annotation, write, where):
    unused = coco(1, [annotation(1, category_id=2)], categories=roboflow_categories())
    used = coco(1, [annotation(1, category_id=0)], categories=roboflow_categories())
    pair = (used, unused) if where == "train" else (unused, used)
    write_pair(tmp_path, write, *pair, "roboflow")
    assert open_folder(tmp_path).classes == ["food", "fig", "nut"]


def test_unused_class_that_is_nobodys_supercategory_is_kept(tmp_path, coco, write):
    categories = [{"id": 0, "name": "fig"}, {"id": 1, "name": "nut", "supercategory": "food"}]
    data = coco(1, categories=categories)
    write_pair(tmp_path, write, data, data)
    assert open_folder(tmp_path).classes == ["fig", "nut"]


def test_categories_of_both_files_must_agree(tmp_path, coco, write):
    write_pair(tmp_path, write, coco(1, names=["fig", "nut"]), coco(1, names=["nut", "fig"]))
    with pytest.raises(DatasetProblemsError) as caught:
        list(open_folder(tmp_path).classes)
    assert "{1: 'fig', 2: 'nut'}" in str(caught.value)
    assert "{1: 'nut', 2: 'fig'}" in str(caught.value)


def test_duplicate_class_names(tmp_path, coco, write):
    data = coco(1, names=["nut", "fig", "nut"])
    write_pair(tmp_path, write, data, data)
    with pytest.raises(DatasetProblemsError, match=r"'nut' is category \[1, 3\]"):
        list(open_folder(tmp_path).classes)


# --------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("style", ["coco", "roboflow"])
@pytest.mark.parametrize(("changes", "expected"), [({}, True), ({"segmentation": []}, False)])
def test_has_masks_is_about_the_training_part(tmp_path, coco, annotation, write, style, changes, expected):
    train = coco(1, [annotation(1, **changes)])
    write_pair(tmp_path, write, train, coco(1), style)
    assert open_folder(tmp_path).has_masks is expected


def test_has_masks_of_one_file(single, coco, annotation, write):
    assert open_folder(single).has_masks
    boxes = [annotation(i, i) for i in (1, 2)]
    for entry in boxes:
        del entry["segmentation"]
    write(single / "labels.json", coco(2, boxes), single / "images")
    assert not open_folder(single).has_masks


def test_malformed_annotation_does_not_count_as_a_mask(tmp_path, coco, annotation, write):
    """With drop_invalid it is left out, and what stays has boxes only."""
    train = coco(1, [annotation(1, segmentation=[]), annotation(None)])
    write_pair(tmp_path, write, train, coco(1))
    assert not open_folder(tmp_path).has_masks


# -------------------------------------------------------------------------------------------- splits


def test_split_is_disjoint_complete_and_deterministic(single):
    train, val = image_ids(load(single, "train")), image_ids(load(single, "val"))
    assert len(val) == 2
    assert sorted(train + val) == list(range(1, 11))
    assert image_ids(load(single, "val")) == val


def test_split_does_not_depend_on_the_order_in_the_file(single):
    data = json.loads((single / "labels.json").read_text())
    for image in data["images"]:
        image["id"] *= 1024  # a set of these keeps the order in which they came
    for entry in data["annotations"]:
        entry["image_id"] *= 1024
    (single / "labels.json").write_text(json.dumps(data))
    before = image_ids(load(single, "val"))
    data["images"].reverse()
    (single / "labels.json").write_text(json.dumps(data))
    assert image_ids(load(single, "val")) == before


def test_seed_and_fraction_change_the_split(single):
    assert any(image_ids(load(single, "val", seed=s)) != image_ids(load(single, "val")) for s in (1, 2, 3))
    assert len(load(single, "val", val_fraction=0.5)) == 5


@pytest.mark.parametrize(("fraction", "num_val"), [(0.001, 1), (0.999, 9)])
def test_no_side_is_left_empty(single, fraction, num_val):
    assert len(load(single, "val", val_fraction=fraction)) == num_val
    assert len(load(single, "train", val_fraction=fraction)) == 10 - num_val


@pytest.mark.parametrize("with_objects", [(3, 7), (1, 2, 9), (4,) * 3 + (5,)])
@pytest.mark.parametrize("val_fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(6))
def test_both_sides_have_an_object(single, coco, annotation, write, with_objects, val_fraction, seed):
    """Whatever the permutation; crowds do not count."""
    crowds = [annotation(100 + i, i, iscrowd=1) for i in range(1, 11)]
    data = coco(10, [annotation(i, image_id) for i, image_id in enumerate(with_objects, 1)] + crowds)
    write(single / "labels.json", data, single / "images")
    sides = [load(single, split, seed=seed, val_fraction=val_fraction) for split in ("train", "val")]
    for records in sides:
        assert any(not a["iscrowd"] for record in records for a in record["annotations"])
    assert len(sides[1]) == round(10 * val_fraction)
    assert sorted(image_ids(sides[0] + sides[1])) == list(range(1, 11))


def test_objects_in_one_image_only_cannot_be_split(single, coco, annotation, write):
    write(single / "labels.json", coco(5, [annotation(1, 3), annotation(2, 3)]), single / "images")
    with pytest.raises(DatasetError, match="needs at least two"):
        folder_split(str(single), "val")


def test_one_image_cannot_be_split(tmp_path, coco, write):
    write(tmp_path / "a.json", coco(1), tmp_path / "images")
    with pytest.raises(DatasetError, match="needs at least two"):
        folder_split(str(tmp_path), "train")


@pytest.mark.parametrize("arguments", [{"split": "all"}, {"split": "val", "val_fraction": 1.0}])
def test_bad_arguments(single, arguments):
    with pytest.raises(ConfigError):
        folder_split(str(single), **arguments)


def test_nothing_is_written_into_the_folder(single):
    before = {path: path.stat().st_mtime_ns for path in sorted(single.rglob("*"))}
    load(single, "train", drop_invalid=True)
    load(single, "val")
    assert {path: path.stat().st_mtime_ns for path in sorted(single.rglob("*"))} == before


# -------------------------------------------------------------------------------------- registration


def test_registering_again_changes_nothing(single):
    name = folder_split(str(single), "train")
    entry, metadata = DatasetCatalog[name], MetadataCatalog.get(name)
    assert folder_split(str(single), "train") == name
    assert DatasetCatalog[name] is entry
    assert MetadataCatalog.get(name) is metadata
    assert load(single, "train") == load(single, "train")


def test_names_do_not_collide(single, tmp_path, coco, write):
    other = tmp_path / "elsewhere" / "single"
    write(other / "labels.json", coco(10), other / "images")
    names = [
        folder_split(str(single), "train"),
        folder_split(str(single), "val"),
        folder_split(str(single), "train", seed=1),
        folder_split(str(single), "train", val_fraction=0.3),
        folder_split(str(single), "train", drop_invalid=True),
        folder_split(str(other), "train"),
    ]
    assert len(set(names)) == len(names)


def test_an_edited_file_gets_a_new_name(single, coco):
    before = folder_split(str(single), "val")
    (single / "labels.json").write_text(json.dumps(coco(10, names=["fig"])))
    after = folder_split(str(single), "val")
    assert after != before
    assert MetadataCatalog.get(after).thing_classes == ["fig"]


def test_works_as_a_config_node(single):
    node = L(folder_split)(directory=str(single), split="train", seed=3)
    assert instantiate(node) == folder_split(str(single), "train", seed=3)


def test_file_that_pycocotools_can_score_is_used_as_it_is(tmp_path, coco, write):
    write_pair(tmp_path, write, coco(1), coco(1))
    metadata = MetadataCatalog.get(folder_split(str(tmp_path), "val"))
    assert metadata.json_file == str(tmp_path / "annotations" / "instances_val2017.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("style", ["coco", "roboflow"])
def test_byte_order_mark(tmp_path, coco, write, style, encoding):
    """detectron2 and pycocotools would stumble over it, here as in the evaluation."""
    write_pair(tmp_path, write, coco(2), coco(1), style)
    for json_file in tmp_path.rglob("*.json"):
        json_file.write_text(json_file.read_text(), encoding=encoding)
    assert open_folder(tmp_path).classes == ["nut"]
    assert (len(load(tmp_path, "train")), len(load(tmp_path, "val"))) == (2, 1)
    assert not hasattr(MetadataCatalog.get(folder_split(str(tmp_path), "val")), "json_file")


@pytest.mark.parametrize("lacking", ["area", "iscrowd", "info", "id", "integer id"])
def test_perfect_predictions_score_100_whatever_the_file_lacks(tmp_path, coco, annotation, write, lacking):
    """Such files are common; pycocotools alone would crash, or count an object with id 0 as missed."""
    data = coco(2, [annotation(i, image_id=i + 1) for i in range(2)])
    if lacking == "info":
        del data["info"]
    for i, entry in enumerate(data["annotations"]):
        entry["id"] = {"id": i, "integer id": f"a{i}"}.get(lacking, i + 1)
        if lacking in ("area", "iscrowd"):
            del entry[lacking]
    write_pair(tmp_path / "data", write, data, data)
    name = folder_split(str(tmp_path / "data"), "val")
    evaluator = COCOEvaluator(name, tasks=("bbox",), output_dir=str(tmp_path / "out"), use_fast_impl=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
        instances = Instances((16, 20), pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)))
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


# -------------------------------------------------------------------------------------- drop_invalid


def test_drop_invalid(tmp_path, coco, annotation, write, caplog):
    annotations = [annotation(1, 1), annotation(2, 1, bbox=[5, 5, -1, 2]), annotation(3, 2), annotation(4, 3)]
    write_pair(tmp_path, write, coco(3, annotations), coco(1))
    (tmp_path / "train2017" / "2.png").unlink()
    with pytest.raises(DatasetProblemsError, match="reversed box"):  # never without being asked
        load(tmp_path, "train")
    records = load(tmp_path, "train", drop_invalid=True)
    assert image_ids(records) == [1, 3]
    assert [len(record["annotations"]) for record in records] == [1, 1]
    assert "left out 1 of 3 images and 2 of 4 annotations" in caplog.text


def test_what_is_left_is_split(single):
    """Also where everything that is left out was on one side."""
    for image_id in image_ids(load(single, "val")):
        (single / "images" / f"{image_id}.png").unlink()
    train, val = (image_ids(load(single, split, drop_invalid=True)) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 2)
    assert not set(train) & set(val)


def test_drop_invalid_cannot_fix_the_whole_file(tmp_path, coco, write):
    write_pair(tmp_path, write, coco(1, []), coco(1))
    with pytest.raises(DatasetProblemsError, match="no annotations"):
        load(tmp_path, "train", drop_invalid=True)


@pytest.mark.parametrize(
    "changes",
    [{"category_id": 1.5}, {"category_id": None}, {"id": None}, {"id": True}, {"image_id": [1]}, "no bbox"],
)
@pytest.mark.parametrize("one_file", [True, False])
def test_drop_invalid_leaves_out_a_malformed_annotation(
    tmp_path, coco, annotation, write, changes, one_file, caplog
):
    bad = annotation(9, 1)
    if changes == "no bbox":
        del bad["bbox"]
    else:
        bad.update(changes)
    data = coco(2, [annotation(1, 1), annotation(2, 2), bad])
    if one_file:
        write(tmp_path / "labels.json", data, tmp_path / "images")
    else:
        write_pair(tmp_path, write, data, coco(1))
    records = load(tmp_path, "train", drop_invalid=True)
    if one_file:
        records += load(tmp_path, "val", drop_invalid=True)
    assert sorted(image_ids(records)) == [1, 2]
    assert [len(record["annotations"]) for record in records] == [1, 1]
    assert "left out" in caplog.text


@pytest.mark.parametrize("changes", [{"file_name": None}, {"width": 0}, {"height": 1.5}, {"id": None}])
def test_drop_invalid_leaves_out_a_malformed_image(tmp_path, coco, write, changes):
    write_pair(tmp_path, write, coco(3), coco(1))
    data = coco(3)
    data["images"][1].update(changes)
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(data))
    records = load(tmp_path, "train", drop_invalid=True)
    assert image_ids(records) == [1, 3]


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_drop_invalid_cannot_fix_a_file_that_is_not_coco(tmp_path, coco, write, text):
    write_pair(tmp_path, write, coco(1), coco(1))
    (tmp_path / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(DatasetError, match=r"unreadable JSON|not a COCO file|no file for training"):
        load(tmp_path, "train", drop_invalid=True)


def test_drop_invalid_cannot_fix_masks_in_one_part_only(tmp_path, coco, annotation, write):
    write_pair(tmp_path, write, coco(1), coco(1, [annotation(1, segmentation=[])]))
    with pytest.raises(DatasetProblemsError, match="masks in one split only"):
        load(tmp_path, "train", drop_invalid=True)


def test_drop_invalid_with_pictures_but_no_object_left(tmp_path, coco, annotation, write):
    write_pair(tmp_path, write, coco(2, [annotation(1, 1, bbox=[5, 5, -1, 2])]), coco(1))
    with pytest.raises(DatasetProblemsError, match="nothing left") as caught:
        load(tmp_path, "train", drop_invalid=True)
    assert "reversed box" in str(caught.value)


def test_drop_invalid_with_nothing_left(tmp_path, coco, write):
    write_pair(tmp_path, write, coco(1), coco(1))
    (tmp_path / "train2017" / "1.png").unlink()
    with pytest.raises(DatasetProblemsError, match="missing image file"):
        load(tmp_path, "train", drop_invalid=True)


def test_masks_arrive(single):
    polygon = load(single, "train")[0]["annotations"][0]["segmentation"][0]
    assert np.array_equal(polygon, [2, 3, 12, 3, 12, 9, 2, 9])
