"""Reports of detectors' evaluations, on a data set of a few pictures."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Boxes, Instances
from matplotlib.figure import Figure
from PIL import Image

from lesa_d2.data.registration import register_dataset
from lesa_d2.data.statistics import PartStatistics
from lesa_d2.evaluation import CocoEvaluator
from lesa_d2.tools.reports import detection_report, pictures
from lesa_d2.tools.reports.data_report import data_report
from lesa_d2.tools.reports.detection_plots import plot_precision_recall
from lesa_d2.tools.reports.detection_report import PICTURES, class_metrics, write_detection_report
from lesa_d2.tools.reports.drawing import class_colours

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
    assert "A good threshold of scores is **0.8**: it has the best F1, 0.67." in text
    assert "At a score of at least 0.8" in text
    assert "Not usable yet" not in text
    assert "AP on 3 pictures means little" in text
    assert "Precision 1.00, recall 0.50" in text


def test_no_detection_at_all(evaluated, tmp_path):
    (tmp_path / "best.png").write_text("of an earlier evaluation")
    text = write_detection_report(tmp_path, evaluated([]))
    assert "**Not usable yet.** No detection reaches the model's test_score_thresh" in text
    assert "Train longer" in text
    assert not any((tmp_path / name).exists() for name in PICTURES)


WRONG = [(3, 0, (k, 0, 9, 9), 0.9) for k in range(12)]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([*WRONG, MIXED[0]], "**Not usable yet.** The best F1 of any threshold is 0.12, at a score of"),
        (WRONG, "**Not usable yet.** Not a single detection is right, whatever the threshold."),
        (WRONG[:3] + MIXED[:2], "A good threshold of scores is **0.8**: it has the best F1, 0.44."),
    ],
)
def test_below_an_f1_of_three_tenths_no_threshold_is_good(evaluated, tmp_path, found, words):
    text = write_detection_report(tmp_path, evaluated(found))
    assert words in text
    assert ("good threshold" in text) == ("Not usable" not in text)


def test_a_given_threshold_is_not_called_good(evaluated, tmp_path):
    text = write_detection_report(tmp_path, evaluated(MIXED), score_threshold=0.6)
    assert "A good threshold of scores is **0.8**" in text
    assert "at the threshold given" in text
    assert "## At a score of at least 0.6" in text


def test_pictures_are_drawn_if_asked(evaluated, tmp_path):
    evaluator = evaluated(MIXED)
    write_detection_report(tmp_path, evaluator)
    text = write_detection_report(tmp_path, evaluator, pictures=False)
    assert "drawn at the last evaluation; train.report.pictures=every" in text
    assert not any((tmp_path / name).exists() for name in PICTURES)


@pytest.mark.parametrize(("masks", "kind"), [(True, "mask"), (False, "box")])
def test_plots_are_titled_alike_and_of_what_is_counted(evaluated, tmp_path, monkeypatch, masks, kind):
    titles, curves = [], []
    evaluator = evaluated(MIXED, masks)
    monkeypatch.setattr(detection_report, "readable_name", lambda name: "photos, validation")
    monkeypatch.setattr(
        detection_report,
        "plot_precision_recall",
        lambda *given: curves.append(given[2]) or titles.append(given[4]),
    )
    monkeypatch.setattr(detection_report, "plot_confusion", lambda *given: titles.append(given[2]))
    monkeypatch.setattr(detection_report, "write_sheet", lambda *given: titles.append(given[3]))
    text = write_detection_report(tmp_path, evaluator)
    assert text.startswith("# Evaluation on photos, validation\n")
    counted = f"{kind} IoU from 0.5"
    assert titles == [
        f"photos, validation: precision and recall, {counted}",
        f"photos, validation: confusions, {counted}, scores from 0.8",
        f"photos, validation: the first pictures, {counted}, scores from 0.8",
        f"photos, validation: worst pictures, {counted}, scores from 0.8",
        f"photos, validation: best pictures, {counted}, scores from 0.8",
    ]
    assert f"matched by {kind} IoU" in text
    evaluation = evaluator.evaluations["segm" if masks else "bbox"]
    np.testing.assert_array_equal(curves[0], class_metrics(evaluation)[:, 1])


def test_the_first_pictures_are_those_of_the_data_set(evaluated, tmp_path, monkeypatch):
    titles, sheets = [], {}
    monkeypatch.setattr(detection_report, "FIRST", 2)
    monkeypatch.setattr(pictures, "add_title", lambda picture, title, most=0: titles.append(title) or picture)

    def keep(tiles, columns, file, title):
        sheets[file.name] = (titles.copy(), columns, tiles[0].shape[1])
        titles.clear()

    monkeypatch.setattr(detection_report, "write_sheet", keep)
    write_detection_report(tmp_path, evaluated(MIXED))
    drawn, columns, width = sheets["predictions.png"]
    assert [title for title in drawn if "truth" in title] == [f"{index}.png: truth" for index in (1, 2)]
    assert "quality 1.00, 2 right, 0 wrong, 0 missed" in drawn
    assert (columns, width) == (2, pictures.TILE_WIDTH)


def test_a_class_has_the_same_colour_in_plots_and_pictures(monkeypatch, tmp_path):
    drawn = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, file, **given: drawn.append(self) or savefig(self, file, **given)
    )
    precision = np.tile(np.linspace(1, 0, 101)[:, None], (1, 3))
    plot_precision_recall(
        precision,
        np.linspace(0, 1, 101),
        np.array([10.0, np.nan, 90.0]),
        ["a", "b", "c"],
        "photos: precision and recall, mask IoU from 0.5",
        tmp_path / "x.png",
    )
    (axes,) = drawn[0].axes
    colours = {line.get_label()[0]: line.get_color() for line in axes.lines}
    for k, name in ((0, "a"), (2, "c")):
        assert colours[name] == pytest.approx(np.array(class_colours(3)[k]) / 255)
    assert axes.get_title() == "photos\nprecision and recall, mask IoU from 0.5"


def test_more_objects_than_ap_counts(evaluated, tmp_path):
    evaluator = evaluated(MIXED)
    truth = evaluator.evaluations["segm"].cocoGt
    truth.imgToAnns[1] = truth.imgToAnns[1] * 60
    text = write_detection_report(tmp_path, evaluator, pictures=False)
    assert "1 picture holds more than 100 objects, up to 120, in validation" in text


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
