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

from lesa_d2.data import DatasetProblemsError, coco_folder_classes, coco_folder_split, find_layout
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
    return DatasetCatalog.get(coco_folder_split(str(folder), split, **arguments))


def image_ids(records):
    return [record["image_id"] for record in records]


# ------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("style", ["coco", "roboflow"])
def test_layout_with_two_files(tmp_path, coco, write, style):
    write_pair(tmp_path, write, coco(3), coco(2), style)
    train, val = load(tmp_path, "train"), load(tmp_path, "val")
    assert (len(train), len(val)) == (3, 2)
    folder = "train2017" if style == "coco" else "train"
    assert train[0]["file_name"] == str(tmp_path / folder / "1.png")


@pytest.mark.parametrize("name", ["val", "test"])
def test_roboflow_validation_under_another_name(tmp_path, coco, write, name):
    for split, count in (("train", 2), (name, 1)):
        write(tmp_path / split / "_annotations.coco.json", coco(count), tmp_path / split)
    assert find_layout(tmp_path).val.image_root == tmp_path / name


def test_layout_with_one_file(single):
    layout = find_layout(single)
    assert layout.needs_split
    assert layout.train.image_root == single / "images"


def test_missing_folder(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        find_layout(tmp_path / "nowhere")


def test_unknown_layout_says_what_is_there_and_what_is_accepted(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("a.json", "pictures/b.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DatasetError) as caught:
        find_layout(tmp_path)
    text = str(caught.value)
    assert "found: a.json, pictures/, pictures/b.json, 1 other file\n" in text
    for accepted in ("instances_train*.json", "train/_annotations.coco.json", "images/"):
        assert accepted in text


def test_empty_folder(tmp_path):
    with pytest.raises(DatasetError, match="the folder is empty"):
        find_layout(tmp_path)


def test_two_candidate_files_are_not_guessed_between(single):
    (single / "other.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"labels\.json, other\.json"):
        find_layout(single)


# ------------------------------------------------------------------------------------------- classes


def test_ids_that_are_not_contiguous(tmp_path, coco, annotation, write):
    """End to end: ids 7, 40, 3 become classes 1, 2, 0 in ascending order of id."""
    categories = [{"id": 7, "name": "b"}, {"id": 40, "name": "c"}, {"id": 3, "name": "a"}]
    annotations = [annotation(i, category_id=c) for i, c in ((1, 40), (2, 3), (3, 7))]
    data = coco(1, annotations, categories=categories)
    write_pair(tmp_path, write, data, data)
    assert coco_folder_classes(str(tmp_path)) == ["a", "b", "c"]
    (record,) = load(tmp_path, "train")
    assert [a["category_id"] for a in record["annotations"]] == [2, 0, 1]
    metadata = MetadataCatalog.get(coco_folder_split(str(tmp_path), "train"))
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
    assert coco_folder_classes(str(tmp_path)) == ["fig", "nut"]
    name = coco_folder_split(str(tmp_path), "val")
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
    assert coco_folder_classes(str(tmp_path)) == ["food", "fig", "nut"]


def test_unused_class_that_is_nobodys_supercategory_is_kept(tmp_path, coco, write):
    categories = [{"id": 0, "name": "fig"}, {"id": 1, "name": "nut", "supercategory": "food"}]
    data = coco(1, categories=categories)
    write_pair(tmp_path, write, data, data)
    assert coco_folder_classes(str(tmp_path)) == ["fig", "nut"]


def test_categories_of_both_files_must_agree(tmp_path, coco, write):
    write_pair(tmp_path, write, coco(1, names=["fig", "nut"]), coco(1, names=["nut", "fig"]))
    with pytest.raises(DatasetProblemsError) as caught:
        coco_folder_classes(str(tmp_path))
    assert "{1: 'fig', 2: 'nut'}" in str(caught.value)
    assert "{1: 'nut', 2: 'fig'}" in str(caught.value)


def test_duplicate_class_names(tmp_path, coco, write):
    data = coco(1, names=["nut", "fig", "nut"])
    write_pair(tmp_path, write, data, data)
    with pytest.raises(DatasetProblemsError, match=r"'nut' is category \[1, 3\]"):
        coco_folder_classes(str(tmp_path))


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


def test_one_image_cannot_be_split(tmp_path, coco, write):
    write(tmp_path / "a.json", coco(1), tmp_path / "images")
    with pytest.raises(DatasetError, match="needs at least two"):
        coco_folder_split(str(tmp_path), "train")


@pytest.mark.parametrize("arguments", [{"split": "test"}, {"split": "val", "val_fraction": 1.0}])
def test_bad_arguments(single, arguments):
    with pytest.raises(ConfigError):
        coco_folder_split(str(single), **arguments)


def test_nothing_is_written_into_the_folder(single):
    before = {path: path.stat().st_mtime_ns for path in sorted(single.rglob("*"))}
    load(single, "train", drop_invalid=True)
    load(single, "val")
    assert {path: path.stat().st_mtime_ns for path in sorted(single.rglob("*"))} == before


# -------------------------------------------------------------------------------------- registration


def test_registering_again_changes_nothing(single):
    name = coco_folder_split(str(single), "train")
    entry, metadata = DatasetCatalog[name], MetadataCatalog.get(name)
    assert coco_folder_split(str(single), "train") == name
    assert DatasetCatalog[name] is entry
    assert MetadataCatalog.get(name) is metadata
    assert load(single, "train") == load(single, "train")


def test_names_do_not_collide(single, tmp_path, coco, write):
    other = tmp_path / "elsewhere" / "single"
    write(other / "labels.json", coco(10), other / "images")
    names = [
        coco_folder_split(str(single), "train"),
        coco_folder_split(str(single), "val"),
        coco_folder_split(str(single), "train", seed=1),
        coco_folder_split(str(single), "train", val_fraction=0.3),
        coco_folder_split(str(single), "train", drop_invalid=True),
        coco_folder_split(str(other), "train"),
    ]
    assert len(set(names)) == len(names)


def test_an_edited_file_gets_a_new_name(single, coco):
    before = coco_folder_split(str(single), "val")
    (single / "labels.json").write_text(json.dumps(coco(10, names=["fig"])))
    after = coco_folder_split(str(single), "val")
    assert after != before
    assert MetadataCatalog.get(after).thing_classes == ["fig"]


def test_works_as_a_config_node(single):
    node = L(coco_folder_split)(directory=str(single), split="train", seed=3)
    assert instantiate(node) == coco_folder_split(str(single), "train", seed=3)


def test_file_that_pycocotools_can_score_is_used_as_it_is(tmp_path, coco, write):
    write_pair(tmp_path, write, coco(1), coco(1))
    metadata = MetadataCatalog.get(coco_folder_split(str(tmp_path), "val"))
    assert metadata.json_file == str(tmp_path / "annotations" / "instances_val2017.json")


@pytest.mark.parametrize("lacking", ["area", "iscrowd", "info", "id"])
def test_perfect_predictions_score_100_whatever_the_file_lacks(tmp_path, coco, annotation, write, lacking):
    """Such files are common; pycocotools alone would crash, or count an object with id 0 as missed."""
    data = coco(2, [annotation(i, image_id=i + 1) for i in range(2)])
    if lacking == "info":
        del data["info"]
    for i, entry in enumerate(data["annotations"]):
        entry["id"] = i if lacking == "id" else i + 1
        if lacking in ("area", "iscrowd"):
            del entry[lacking]
    write_pair(tmp_path / "data", write, data, data)
    name = coco_folder_split(str(tmp_path / "data"), "val")
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
    assert image_ids(load(tmp_path, "train")) == [1, 2, 3]  # never without being asked
    records = load(tmp_path, "train", drop_invalid=True)
    assert image_ids(records) == [1, 3]
    assert [len(record["annotations"]) for record in records] == [1, 1]
    assert "left out 1 of 3 images and 2 of 4 annotations" in caplog.text


def test_drop_invalid_keeps_the_split(single):
    val = image_ids(load(single, "val"))
    (single / "images" / f"{val[0]}.png").unlink()
    assert image_ids(load(single, "val", drop_invalid=True)) == val[1:]


def test_drop_invalid_cannot_mend_the_whole_file(tmp_path, coco, write):
    write_pair(tmp_path, write, coco(1, []), coco(1))
    with pytest.raises(DatasetProblemsError, match="no annotations"):
        load(tmp_path, "train", drop_invalid=True)


def test_drop_invalid_with_nothing_left(tmp_path, coco, write):
    write_pair(tmp_path, write, coco(1), coco(1))
    (tmp_path / "train2017" / "1.png").unlink()
    with pytest.raises(DatasetProblemsError, match="missing image file"):
        load(tmp_path, "train", drop_invalid=True)


def test_masks_arrive(single):
    polygon = load(single, "train")[0]["annotations"][0]["segmentation"][0]
    assert np.array_equal(polygon, [2, 3, 12, 3, 12, 9, 2, 9])
