"""Results for COCO's evaluation server."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from lesa_d2.config.lazy import check_key, load_config
from lesa_d2.data.registration import register_dataset
from lesa_d2.errors import StorageError
from lesa_d2.evaluation import CocoEvaluator

SIZE = (20, 30)
IDS = {7: 0, 90: 1}
BOXES = [[2.0, 3, 12, 13], [5.0, 5, 9, 9]]


def evaluate(folder, annotations=None, masks=True, boxes=BOXES, **options):
    """Evaluate detections on one picture; returns results and the output folder."""
    data = {
        "info": {},
        "images": [{"id": 5, "file_name": "5.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": i, "name": str(i)} for i in IDS],
    }
    if annotations is not None:
        data["annotations"] = annotations
    (folder / "info.json").write_text(json.dumps(data))
    name = register_dataset(
        f"coco_2017_test_{folder.name}",
        list,
        json_file=str(folder / "info.json"),
        thing_classes=["a", "b"],
        thing_dataset_id_to_contiguous_id=IDS,
    )
    found = len(boxes)
    instances = Instances(
        SIZE,
        pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        scores=torch.linspace(0.9, 0.1, found),
        pred_classes=torch.ones(found, dtype=int),
    )
    if masks:
        instances.pred_masks = torch.zeros(found, *SIZE, dtype=torch.bool)
        instances.pred_masks[:, 3:13, 2:12] = True
    evaluator = CocoEvaluator(name, output_dir=str(folder / "out"), **options)
    evaluator.reset()
    evaluator.process([{"image_id": 5}], [{"instances": instances}])
    return evaluator.evaluate(), folder / "out"


def uploads(folder):
    return {file.name.split("_")[-2]: file for file in folder.glob("detections_*_results.json")}


@pytest.mark.parametrize("found", [2, 0])
def test_a_set_without_annotations_is_split(tmp_path, found):
    results, folder = evaluate(tmp_path, boxes=BOXES[:found])
    assert not results
    files = uploads(folder)
    boxes = json.loads(files["bbox"].read_text())
    assert len(boxes) == found
    assert all(set(r) == {"image_id", "category_id", "bbox", "score"} for r in boxes)
    assert set(files) == {"bbox", "segm"}
    assert files["bbox"].name == f"detections_test_{tmp_path.name}2017_bbox_results.json"
    if found:
        for file in files.values():  # as the server reads them
            entries = COCO(str(tmp_path / "info.json")).loadRes(str(file)).dataset["annotations"]
            assert [entry["category_id"] for entry in entries] == [90, 90]
            assert list(entries[0]["bbox"]) == [2, 3, 10, 10]
    if found:
        masks = json.loads(files["segm"].read_text())
        assert all(set(r) == {"image_id", "category_id", "segmentation", "score"} for r in masks)


def test_detectors_of_boxes_alone(tmp_path):
    _, folder = evaluate(tmp_path, masks=False)
    assert set(uploads(folder)) == {"bbox"}


def test_a_set_with_annotations_is_scored_as_ever(tmp_path):
    truth = {"id": 1, "image_id": 5, "category_id": 90, "bbox": [2, 3, 10, 10], "area": 100, "iscrowd": 0}
    truth["segmentation"] = [[2, 3, 12, 3, 12, 13, 2, 13]]
    results, folder = evaluate(tmp_path, [truth])
    assert results["bbox"]["AP50"] > 0
    assert not uploads(folder)


def test_results_are_written_whole(tmp_path, monkeypatch):
    """detectron2 writes them in place."""
    evaluate(tmp_path)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert "coco_instances_results.json" in before

    def half(self, *arguments, **options):
        Path(self._output_dir, "coco_instances_results.json").write_text("[{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CocoEvaluator, "_eval_predictions", half)
    with pytest.raises(StorageError, match="No space left on device"):
        evaluate(tmp_path, boxes=BOXES[:1])
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_how_many_detections_count_can_be_set(tmp_path):
    """The right one of 101 detections has the lowest score: it counts if 101 do."""
    truth = {"id": 1, "image_id": 5, "category_id": 90, "bbox": [5, 5, 4, 4], "area": 16, "iscrowd": 0}
    boxes = [[2.0, 3, 12, 13]] * 100 + [[5.0, 5, 9, 9]]
    usual, _ = evaluate(tmp_path, [truth], masks=False, boxes=boxes)
    more, _ = evaluate(tmp_path, [truth], masks=False, boxes=boxes, max_dets_per_image=101)
    assert usual["bbox"]["AP50"] == 0
    assert more["bbox"]["AP50"] == pytest.approx(100 / 101, rel=0.01)
    check_key(load_config("quickstart_lesa"), "dataloader.evaluator.max_dets_per_image")
