"""Drawing and comparing."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from lesa_d2.errors import ConfigError, LesaError
from lesa_d2.tools.demo import DetectionSummary
from lesa_d2.tools.demo.files import keep_originals, output_names, short_names
from lesa_d2.tools.demo.panels import GAP, DemoModel, Panels, default_titles, load_models
from lesa_d2.tools.reports.drawing import (
    MASK_ALPHA,
    add_title,
    class_colours,
    draw_detections,
    named_classes,
)
from lesa_d2.tools.reports.pictures import write_picture


def coloured(picture):
    """Where a picture is not grey."""
    return (picture.max(2).astype(int) - picture.min(2)) > 20


def test_detections_are_drawn_where_they_are(panels):
    found = panels.detections[0][:1]
    drawn = draw_detections(panels.image, found, ["nut", "fig"])
    assert drawn.shape == (213, 320, 3)  # small images are drawn larger
    rows, columns = np.nonzero(coloured(drawn))
    scale = 320 / 90
    assert abs(columns.max() - 30 * scale) < 6
    assert abs(rows.max() - 40 * scale) < 8


def test_classes_keep_their_colours(panels):
    """In every picture, for every model, whatever else is in it."""
    once, again = (draw_detections(panels.image, panels.detections[0], ["nut", "fig"]) for _ in range(2))
    assert np.array_equal(once, again)
    blue, green, red = draw_detections(panels.image, panels.detections[0][:1], ["nut", "fig"])[70, 70]
    wanted = np.array(class_colours(1)[0]) * MASK_ALPHA + 128 * (1 - MASK_ALPHA)
    assert np.allclose([red, green, blue], wanted, atol=12)


def test_large_images_keep_their_size(make_detections):
    image = np.zeros((50, 700, 3), np.uint8)
    drawn = draw_detections(image, make_detections((50, 700), [[1, 1, 9, 9]], [0.9], [0]), [])
    assert drawn.shape == image.shape


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 50), (50, 2)])
def test_thin_images(size, make_detections):
    found = make_detections(size, [[0, 0, 1, 1]], [0.9], [0])
    drawn = draw_detections(np.zeros((*size, 3), np.uint8), found, ["nut"])
    assert drawn.shape[1] == 320
    assert found.has("pred_masks")  # the caller's are left alone


def test_classes_without_a_name_are_numbered(make_detections):
    found = make_detections((9, 9), [[0, 0, 1, 1]], [0.9], [2])
    assert named_classes(["nut"], found) == ["nut", "class 1", "class 2"]
    assert named_classes(["nut"], Instances((9, 9), pred_classes=torch.zeros(0))) == ["nut"]


def test_no_detections(make_detections):
    image = np.full((40, 400, 3), 77, np.uint8)
    assert np.array_equal(draw_detections(image, make_detections((40, 400), [], [], []), ["nut"]), image)


def test_side_by_side_under_titles(panels, models):
    one = Panels(panels.image, panels.detections[:1]).draw(models[:1], 0.5)
    both = panels.draw(models, 0.5)
    assert one.shape == (213, 320, 3)
    title = both.shape[0] - 213
    assert both.shape == (213 + title, 320 + GAP + 320, 3)
    assert np.array_equal(both[title:, :320], one)
    assert (both[:, 320 : 320 + GAP] == 255).all()
    assert both[:title, :320].min() < 100  # something is written


def test_the_image_itself_is_the_first_panel(panels, models):
    plain = panels.draw(models, 0.5)
    drawn = panels.draw(models, 0.5, original=True)
    assert np.array_equal(drawn[:, 320 + GAP :], plain)
    title = drawn.shape[0] - 213
    assert (drawn[title:, :320] == 128).all()
    assert drawn[:title, :320].min() < 100
    one = Panels(panels.image, panels.detections[:1]).draw(models[:1], 0.5, original=True)
    assert one.shape[1] == 320 + GAP + 320


def test_the_threshold_is_inclusive(panels, models):
    at, above = (Panels(panels.image, panels.detections[1:]).draw(models[1:], t) for t in (0.6, 0.601))
    assert coloured(at).any()
    assert not coloured(above).any()


def test_long_titles_are_shortened():
    panel = np.zeros((10, 120, 3), np.uint8)
    short, long = add_title(panel, "LESA"), add_title(panel, "mask_rcnn_lesa_dconv_wr50_20e" * 3)
    assert short.shape == long.shape
    assert (long[:-10, :3] == 255).all()  # a margin is left
    assert (long[:-10, -3:] == 255).all()


def test_titles_from_files():
    files = ["configs/a.py", "output/lesa/config.yaml", "other/a.yaml"]
    assert default_titles(files) == ["a (1)", "lesa", "a (2)"]


def test_numbers_of_weights_and_titles():
    with pytest.raises(ConfigError, match="--weights: expected one for each of the 2 configs, got 1"):
        load_models(["a.py", "b.py"], weights=["w.pth"])
    with pytest.raises(ConfigError, match="--titles: expected one"):
        load_models(["a.py"], titles=["a", "b"])
    with pytest.raises(ConfigError, match="--titles must differ"):
        load_models(["a.py", "b.py"], titles=["a", "a"])


def test_written_names_do_not_collide(tmp_path):
    files = [tmp_path / name for name in ("x/a.jpg", "y/a.jpg", "y/2_a.jpg", "b.tif", "y/A.JPG")]
    names = output_names(files)
    assert [names[file] for file in files] == ["a.jpg", "2_a.jpg", "2_2_a.jpg", "b.tif.jpg", "3_A.JPG"]


def test_originals_are_kept(tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.png")]
    keep_originals(files, tmp_path / "drawn", ["a.png"])
    with pytest.raises(LesaError, match=r"a\.png, b\.png would be overwritten"):
        keep_originals(files, tmp_path / "x" / "..", ["a.png", "b.png", "c.png"])


def test_pictures_that_cannot_be_written(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    assert write_picture(picture, tmp_path / os.fsdecode(b"bad\xff.png")).exists()
    for file in (tmp_path / ("b" * 260 + ".jpg"), tmp_path / "missing/a.png"):
        with pytest.raises(LesaError, match="cannot be written"):
            write_picture(picture, file)


def test_names_below_the_common_folder(tmp_path):
    files = [tmp_path / name for name in ("x/a.jpg", "y/z/a.jpg")]
    assert list(short_names(files).values()) == ["x/a.jpg", "y/z/a.jpg"]
    assert list(short_names(files[:1]).values()) == ["a.jpg"]


def test_summary_counts_and_saves(panels, models, tmp_path):
    import json

    summary = DetectionSummary(models, 0.5)
    summary.add("one.jpg", panels)
    summary.add("two.jpg", panels)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in summary.table().splitlines()]
    assert lines[0] == ["class", "LESA", "convolution"]
    assert ["nut", "2", "0"] in lines
    assert ["</script>", "0", "2"] in lines
    assert ["pictures with any", "2 of 2", "2 of 2"] in lines
    saved = json.loads(summary.save(tmp_path / "all.json").read_text())
    assert [p["file"] for p in saved["pictures"]] == ["one.jpg", "two.jpg"]
    (only,) = saved["pictures"][0]["detections"]["LESA"]
    assert (only["class"], only["bbox"]) == ("nut", [10, 10, 20, 30])
    assert only["score"] == pytest.approx(0.9)
    assert only["segmentation"]["size"] == [60, 90]


def test_summary_says_why_there_is_nothing(panels, models):
    summary = DetectionSummary(models, 0.95)
    summary.add("one.jpg", panels)
    assert "LESA: no detection reaches the score 0.95; the highest is 0.900" in summary.table()
    assert "pictures with any" in DetectionSummary(models, 0.5).table()


def test_the_classes_of_pixels_are_drawn_below_the_detections(make_detections):
    image = np.full((60, 400, 3), 128, np.uint8)
    labels = np.zeros((60, 400), int)
    labels[:, 200:] = 2
    nothing, found = (
        make_detections((60, 400), [], [], []),
        make_detections((60, 400), [[10, 10, 90, 50]], [0.9], [0]),
    )
    drawn = draw_detections(image, nothing, [], labels, ["sky", "sea", "sand"])
    assert not np.array_equal(drawn[5, 5], drawn[5, 395])
    above = draw_detections(image, found, ["nut"], labels)  # classes without a name are numbered
    assert not np.array_equal(above[30, 50], drawn[30, 50])


def test_a_model_that_labels_pixels_is_summed_up_by_them(make_detections):
    predictor = SimpleNamespace(class_names=[], stuff_names=["sky", "sea"])
    summary = DetectionSummary([DemoModel("FPN", predictor)], 0.5)
    labels = np.array([[0, 0, 1, 2]])
    summary.add("a", Panels(np.zeros((1, 4, 3), np.uint8), [make_detections((1, 4), [], [], [])], [labels]))
    assert "FPN: share of pixels: sky 50.0%, sea 25.0%, class 2 25.0%" in summary.table()
    assert "no detection" not in summary.table()
