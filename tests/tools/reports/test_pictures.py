"""Sheets of pictures."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from lesa_d2.data import shapes_split
from lesa_d2.tools.reports import draw_predictions, pictures
from lesa_d2.tools.reports.drawing import add_title, shortened


class Oracle(nn.Module):
    """Sees one box in every image, once surely and once hardly."""

    def forward(self, batch):
        instances = Instances((64, 64))
        instances.pred_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0], [0.0, 0.0, 63.0, 63.0]]))
        instances.scores = torch.tensor([0.9, 0.1])
        instances.pred_classes = torch.tensor([2, 1])
        return [{"instances": instances} for _ in batch]


@pytest.mark.parametrize(("number", "rows", "columns"), [(3, 2, 2), (1, 1, 1)])
def test_sheet_of_pictures(tmp_path, monkeypatch, number, rows, columns):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    name = shapes_split("val", num_images=4, image_size=64, seed=5)
    records = DatasetCatalog.get(name)
    model = Oracle().train()
    file = draw_predictions(
        model, [records[:2], records[2:]], name, tmp_path / "new/sheet.png", num_images=number, columns=2
    )
    sheet = cv2.imread(str(file))
    title, tile = 35 + 21, 320 + 21 + 6  # of the sheet: two lines; with its own title
    assert abs(sheet.shape[0] - title - rows * (2 * tile + 6)) <= 20
    assert abs(sheet.shape[1] - columns * 326) <= 12
    assert model.training
    picture = cv2.resize(cv2.imread(records[0]["file_name"]), (320, 320))
    start = sheet.shape[0] - rows * (2 * tile + 6) + tile + 21
    below = sheet[start : start + 320, :320]
    changed = np.abs(below.astype(int) - picture).sum(-1) > 60
    assert changed[40:200, 40:200].mean() > 0.02  # the sure box is drawn
    assert changed[230:, 230:].mean() < 0.02  # the unsure one is not


def found(*scores):
    instances = Instances((64, 64))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 40.0, 40.0]] * len(scores)).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.zeros(len(scores), dtype=torch.long)
    return instances


def test_at_most_twenty_detections_are_drawn(monkeypatch, tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "black.png")
    drawn, titles = [], []
    monkeypatch.setattr(
        pictures.ClassVisualizer,
        "draw_detections",
        lambda self, detections: drawn.append(detections) or np.zeros((9, 9, 3), np.uint8),
    )
    monkeypatch.setattr(pictures, "add_title", lambda picture, title: titles.append(title) or picture)
    record = {"file_name": str(tmp_path / "black.png")}
    pictures.detections_tile(record, ["a"], found(*np.linspace(0.1, 0.9, 30).tolist()), "caption")
    pictures.detections_tile(record, ["a"], found(0.5))
    assert len(drawn[0]) == 20
    assert drawn[0].scores[0] == pytest.approx(0.9)
    assert drawn[0].scores.min() > 0.36
    assert titles == ["the 20 surest of 30 detections", "caption", "1 detection"]


def test_names_with_accents_are_written():
    """A letter that the font lacks is drawn as the same box for all."""
    blank = np.zeros((1, 300, 3), np.uint8)
    accented, boxes = add_title(blank, "ééé"), add_title(blank, "\ufffe\ufffe\ufffe")
    assert not np.array_equal(accented, boxes)
    assert not np.array_equal(accented, add_title(blank, "ààà"))


def test_long_titles_fit():
    blank = np.zeros((1, 420, 3), np.uint8)
    for title in ("a" * 10, "a" * 55, "a" * 500):
        strip = add_title(blank, title)[:-1]
        assert (strip[:, :4] == 255).all()
        assert (strip[:, -4:] == 255).all()


def test_long_class_names_are_cut():
    assert shortened("pain au chocolat\nà l'ancienne de Provence") == "pain au chocolat à l'…"
    assert shortened("œuf") == "œuf"
