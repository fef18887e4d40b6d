"""Reports of detectors' evaluations, on a data set of a few pictures."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Boxes, Instances
from PIL import Image

from lesa_d2.data.registration import register_dataset
from lesa_d2.data.statistics import PartStatistics
from lesa_d2.evaluation import CocoEvaluator
from lesa_d2.tools.reports.data_report import data_report
from lesa_d2.tools.reports.detection_report import PICTURES, class_metrics, write_detection_report

SIZE = (48, 64)
BOXES = [(4, 4, 24, 24), (32, 8, 24, 16)]  # XYWH of the two objects of a picture


def square(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


@pytest.fixture
def evaluated(tmp_path):
    """Evaluates lists of (picture, class, XYWH box, score) on three pictures; the last has no objects."""

    def evaluate(found, masks=True, classes=2, names=None):
        images, annotations = [], []
        for index in (1, 2, 3):
            file = tmp_path / f"{index}.png"
            Image.fromarray(np.full((*SIZE, 3), 60 * index, np.uint8)).save(file)
            images.append({"id": index, "file_name": file.name, "height": SIZE[0], "width": SIZE[1]})
            for k, box in enumerate(BOXES if index < 3 else []):
                shape = {"segmentation": square(*box)} if masks else {}
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": index, "category_id": 10 * (k % classes + 1)}
                    | {"bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
                    | shape
                )
        categories = [
            {"id": 10 * (k + 1), "name": names[k] if names else f"class {k}"} for k in range(classes)
        ]
        data = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        file = tmp_path / "truth.json"
        file.write_text(json.dumps(data))
        name = f"report_{tmp_path.name}"
        register_dataset(
            name,
            lambda: load_coco_json(str(file), str(tmp_path), name),
            json_file=str(file),
            evaluator_type="coco",
        )
        DatasetCatalog.get(name)  # fills in the classes
        evaluator = CocoEvaluator(name, output_dir=str(tmp_path / "out"))
        evaluator.reset()
        for index in (1, 2, 3):
            here = [entry for entry in found if entry[0] == index]
            evaluator.process([{"image_id": index}], [{"instances": instances(here, masks)}])
        evaluator.evaluate()
        return evaluator

    return evaluate


def instances(entries, masks):
    out = Instances(SIZE)
    boxes = torch.tensor([box for _, _, box, _ in entries], dtype=torch.float).reshape(-1, 4)
    out.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
    out.scores = torch.tensor([score for *_, score in entries], dtype=torch.float)
    out.pred_classes = torch.tensor([k for _, k, _, _ in entries], dtype=torch.long)
    if masks:
        out.pred_masks = torch.zeros(len(entries), *SIZE, dtype=torch.bool)
        for mask, (_, _, (x, y, width, height), _) in zip(out.pred_masks, entries, strict=True):
            mask[y : y + height, x : x + width] = True
    return out


MIXED = [
    (1, 0, BOXES[0], 0.9),
    (1, 1, BOXES[1], 0.8),
    (2, 1, BOXES[0], 0.7),  # of the wrong class
    (3, 0, (0, 0, 9, 9), 0.6),  # nothing is there
    (1, 0, (0, 40, 9, 8), 0.06),
]


@pytest.mark.parametrize("masks", [True, False])
def test_report_and_pictures(evaluated, tmp_path, masks):
    evaluator = evaluated(MIXED, masks)
    text = write_detection_report(tmp_path, evaluator, score_threshold=0.5)
    assert (tmp_path / "evaluation.md").read_text().strip() == text
    assert "4 detections of 4 objects" in text
    assert "2 right, 1 of the wrong class, 1 where nothing is (or is found twice), 1 objects missed" in text
    assert "Precision 0.50, recall 0.50, F1 0.50" in text
    assert "class 0 as class 1 (1)" in text
    assert ("mask AP50" in text) == masks
    for name in PICTURES:
        assert np.asarray(Image.open(tmp_path / name)).std() > 5


def test_metrics_are_those_of_coco(evaluated):
    evaluation = evaluated(MIXED).evaluations["bbox"]
    metrics = class_metrics(evaluation)
    # class 0: recall 1/2 at precision 1; class 1: a right one of score 0.8, then a wrong one
    np.testing.assert_allclose(metrics[:, 1], [51 / 1.01, 51 / 1.01], rtol=1e-4)
    np.testing.assert_allclose(metrics[:, 0].mean(), evaluation.stats[0] * 100)
    np.testing.assert_allclose(metrics[:, 2].mean(), evaluation.stats[8] * 100)


def test_ap50_is_that_at_iou_a_half(evaluated):
    """A detection of IoU 13/24 = 0.54: right at the first of ten thresholds alone."""
    metrics = class_metrics(evaluated([(1, 0, (4, 4, 24, 13), 0.9)]).evaluations["bbox"])
    np.testing.assert_allclose(metrics[0], [51 / 10.1, 51 / 1.01, 5], rtol=1e-4)


def test_threshold_of_the_best_f1(evaluated, tmp_path):
    text = write_detection_report(tmp_path, evaluated(MIXED))
    assert "At a score of at least 0.8 (the best F1 over all images)" in text
    assert "Precision 1.00, recall 0.50" in text


def test_no_detection_at_all(evaluated, tmp_path):
    (tmp_path / "best.png").write_text("of an earlier evaluation")
    text = write_detection_report(tmp_path, evaluated([]))
    assert "No detection reaches the model's test_score_thresh" in text
    assert "Train longer" in text
    assert not any((tmp_path / name).exists() for name in PICTURES)


def test_no_detection_above_the_threshold(evaluated, tmp_path):
    text = write_detection_report(tmp_path, evaluated(MIXED), score_threshold=0.95)
    assert "No detection reaches 0.95: the highest score is 0.9." in text
    assert "box AP" in text
    assert not (tmp_path / "best.png").exists()


def test_one_class(evaluated, tmp_path):
    text = write_detection_report(tmp_path, evaluated([(1, 0, BOXES[0], 0.9)], classes=1))
    assert "1 right, 0 of the wrong class" in text
    assert "Most frequent" not in text


def test_eighty_classes(evaluated, tmp_path):
    text = write_detection_report(tmp_path, evaluated(MIXED, classes=80), score_threshold=0.5)
    assert "| class 79 |         0 |        - |" in text
    width, height = Image.open(tmp_path / "confusion.png").size
    assert 1500 < width < 3000
    assert 1500 < height < 3000


def test_a_set_without_annotations(tmp_path):
    evaluator = CocoEvaluator.__new__(CocoEvaluator)
    evaluator.evaluations, evaluator.dataset_name = {}, "coco_2017_test-dev"
    assert "nothing to report" in write_detection_report(tmp_path, evaluator)


def test_names_that_mean_something_to_markdown_and_matplotlib(evaluated, tmp_path):
    evaluator = evaluated(MIXED, names=["$a_{b$", "<b>|\nc"])
    text = write_detection_report(tmp_path, evaluator, score_threshold=0.5)
    assert r"| $a_{b$ " in text
    assert r"| &lt;b>\| c |" in text
    assert r"$a_{b$ as &lt;b>\| c (1)" in text
    for name in PICTURES:
        assert (tmp_path / name).exists()


def test_names_in_the_data_report():
    part = PartStatistics(1, 0, 0, (1,), (1,), (1, 0, 0), (9, 9, 9), (9, 9, 9), None)
    text = data_report(part, part, ["<b>|\nc"])
    assert r"| &lt;b>\| c |" in text
    assert r"Rare in training (fewer than" in text
    assert "<b>" not in text
