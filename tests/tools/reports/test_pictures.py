"""Sheets of pictures."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

from lesa_d2.data import shapes_split
from lesa_d2.tools.reports import draw_predictions


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
    tile = 320 + 6
    assert abs(sheet.shape[0] - rows * (2 * tile + 6)) <= 12
    assert abs(sheet.shape[1] - columns * tile) <= 12
    assert model.training
    picture = cv2.resize(cv2.imread(records[0]["file_name"]), (320, 320))
    below = sheet[tile : tile + 320, :320]
    changed = np.abs(below.astype(int) - picture).sum(-1) > 60
    assert changed[40:200, 40:200].mean() > 0.02  # the sure box is drawn
    assert changed[230:, 230:].mean() < 0.02  # the unsure one is not
