from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_terms import LABELS, find_modules, gate_of, make

from lesa_d2.errors import LesaError
from lesa_d2.tools.analysis import SeenImage, draw_heads, draw_term_maps, layer_maps
from lesa_d2.tools.analysis.term_maps import MapSheet, choose_layers

POINTS = [(3.0, 40.0), (95.9, 0.0)]


def seen_image():
    """60 high and 90 wide, padded to 64×96."""
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    return SeenImage(Path("photo.jpg"), picture, torch.randn(1, 3, 64, 96), (180, 120))


@pytest.mark.parametrize("num_classes", [None, 3], ids=["detector", "classifier"])
def test_maps_are_means_over_channels(num_classes):
    model, seen = make(num_classes=num_classes), seen_image()
    inputs = []
    for _, operator in find_modules(model):
        operator.register_forward_hook(lambda m, args, out: inputs.append(args[0]))
    found = layer_maps(model, seen.batch, POINTS)
    assert [maps.layer.label for maps in found] == LABELS
    for maps, x in zip(found, inputs, strict=True):
        operator = maps.layer.operator
        with torch.no_grad():
            unary, binary = operator.unary(x), operator.binary(x)
            parts = {"unary": unary.abs(), "binary": binary.abs(), "gate": operator.gate(unary, binary)}
        expected = {name: part[0].mean(0) for name, part in parts.items()}
        torch.testing.assert_close(maps.maps, expected)
        assert maps.size == (4, 6)
        assert maps.cells == [(2, 0), (0, 5)]  # 16 pixels a cell
        for weights, cell in zip(maps.attention, maps.cells, strict=True):
            assert weights.shape == (2, 4, 6)
            torch.testing.assert_close(weights, operator.binary.attention_of(x, cell)[0])


@pytest.fixture
def sheets(monkeypatch):
    """Every sheet that is saved."""
    kept, save = [], MapSheet.save

    def keep(self, file):
        kept.append(self)
        return save(self, file)

    monkeypatch.setattr(MapSheet, "save", keep)
    return kept


def titles(sheet):
    return [[axis.get_title() for axis in row] for row in sheet.axes]


@pytest.mark.parametrize(
    ("operator", "parts"),
    [
        ("lesa", ["|unary|", "|binary| before gate", "gate ω"]),
        ("static_lesa", ["|unary|", "|binary|"]),
        ("self_attention", ["|binary|"]),
        ("attention_augmentation", []),
    ],
)
def test_a_row_a_layer_and_a_column_a_term(operator, parts, sheets, tmp_path):
    model, seen = make(operator), seen_image()
    file = draw_term_maps(seen, layer_maps(model, seen.batch, POINTS), POINTS, tmp_path / "new/maps.png")
    assert cv2.imread(str(file)) is not None
    for row, label in zip(titles(sheets[0]), LABELS, strict=True):
        assert row[0] == f"{label}, map of 4×6"
        assert [title.split(", mean")[0] for title in row[1:-2]] == parts
        assert [title.split(", %")[0] for title in row[-2:]] == ["attention of 1", "attention of 2"]


def test_maps_lie_over_the_padded_picture(sheets, tmp_path):
    model, seen = gate_of(0.25), seen_image()
    draw_term_maps(seen, layer_maps(model, seen.batch, POINTS[:1]), POINTS[:1], tmp_path / "maps.png")
    for axis in sheets[0].axes[0]:
        assert (*axis.get_xlim(), *axis.get_ylim()) == (0, 90, 60, 0)
    picture, *maps, attention = (axis.images for axis in sheets[0].axes[0])
    assert picture[0].get_extent() == [0, 90, 60, 0] == attention[0].get_extent()
    assert {tuple(images[0].get_extent()) for images in (*maps, attention[1:])} == {(0, 96, 64, 0)}
    assert titles(sheets[0])[0][3] == "gate ω, mean 0.25"
    assert sheets[0].axes[0, 4].patches[0].get_bbox().bounds == (0, 32, 16, 16)  # the point's cell


def test_attention_is_drawn_in_percent(sheets, tmp_path):
    model, seen = make(), seen_image()
    layers = layer_maps(model, seen.batch, POINTS)
    draw_term_maps(seen, layers, POINTS, tmp_path / "maps.png")
    weights = 100 * layers[0].attention[1].mean(0)
    drawn = sheets[0].axes[0, 5].images[1].get_array()
    top = float(weights.double().quantile(0.995))
    np.testing.assert_allclose(drawn, weights.clamp_max(top), rtol=1e-5)
    assert titles(sheets[0])[0][5] == f"attention of 2, %, own {float(weights[0, 5]):.2g} %"


def test_heads_have_a_column_each(sheets, tmp_path):
    model, seen = make(), seen_image()
    layers = layer_maps(model, seen.batch, POINTS)
    file = draw_heads(seen, layers, POINTS, 1, tmp_path / "heads.png")
    assert cv2.imread(str(file)) is not None
    assert sheets[0].axes.shape == (2, 3)
    for row, maps in zip(titles(sheets[0]), layers, strict=True):
        own = [100 * float(maps.attention[1][head, 0, 5]) for head in (0, 1)]
        assert row[1:] == [f"head {head}, %, own {value:.2g} %" for head, value in enumerate(own, start=1)]


def test_unknown_layers_are_named():
    assert choose_layers(make(), ["res5.0"]) == ["res5.0"]
    assert choose_layers(make()) == LABELS
    with pytest.raises(LesaError, match=r"no layer res3.0; the model has res4.1, res5.0"):
        choose_layers(make(), ["res4.1", "res3.0"])
