"""Sheets of pictures."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from lesa_d2.tools.reports import pictures
from lesa_d2.tools.reports.drawing import add_title, shortened


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
