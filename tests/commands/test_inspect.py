"""``lesa inspect`` on a tiny detector."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from runs import CLASSIFIER, ROOT, TINY_CLASSIFIER, lesa, pretrain, tiny_options

from lesa_d2.commands import inspect as command
from lesa_d2.data import generate_shape_images
from lesa_d2.engine import build_model, load_config
from lesa_d2.engine.device import settle


@pytest.fixture(scope="module")
def script():
    return command


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two pictures of different shape."""
    folder = tmp_path_factory.mktemp("photos")
    for name, size in (("a.png", (50, 70)), ("b.jpg", (90, 60))):
        cv2.imwrite(str(folder / name), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    return folder


def config(operator):
    return str(ROOT / f"configs/quickstart_{operator}.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder as training leaves it, without the training."""
    folder = tmp_path_factory.mktemp("run")
    cfg = load_config(config("lesa"), tiny_options(folder))
    settle(cfg)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    return folder


def arguments(folder, *extra, operator="lesa"):
    return ["--config-file", config(operator), *map(str, extra), *tiny_options(folder)]


@pytest.fixture
def call(datasets):
    """Run it in this process: exit status, standard output and error."""

    def run(*given):
        done = lesa("inspect", *given)
        return done.returncode, done.stdout, done.stderr

    return run


def test_as_a_user_runs_it(trained, photos, tmp_path):
    done = lesa(
        "inspect", *arguments(trained, "--position", 20, 30, "--output", tmp_path, "--images", photos)
    )
    assert done.returncode == 0, done.stderr
    names = ["maps_1_a.png", "maps_2_b.png", "terms.json", "terms.md", "terms.png"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert (tmp_path / "terms.md").read_text(encoding="utf-8").split("\n\n")[0] in done.stdout
    data = json.loads((tmp_path / "terms.json").read_text(encoding="utf-8"))
    assert data["images"] == 2
    for layer in data["layers"]:
        assert layer["terms"]["own"] + layer["terms"]["rest"] == pytest.approx(1, abs=1e-6)


def test_weights_maps_layers_and_heads_can_be_chosen(call, trained, photos, tmp_path):
    given = ["--weights", trained / "model_final.pth", "--position", 5, 5, "--heads", "--maps", 1]
    given += ["--images", photos / "b.jpg", photos / "a.png", "--layers", "res5.0"]
    status, _, err = call(*arguments(tmp_path / "other", *given))
    assert status == 0, err
    folder = tmp_path / "other/terms"
    written = sorted(file.name for file in folder.iterdir())
    assert written == ["heads_1_b_1.png", "maps_1_b.png", "terms.json", "terms.md", "terms.png"]
    one_row = cv2.imread(str(folder / "maps_1_b.png")).shape[0]
    assert one_row < 1.5 * 110 * 3.2


def test_a_click_is_a_position(call, script, trained, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "check_display", lambda: None)
    monkeypatch.setattr("matplotlib.figure.Figure.ginput", lambda figure, number, timeout: [(69, 0)])
    located = []
    locate = script.ImageReader.locate
    monkeypatch.setattr(
        script.ImageReader,
        "locate",
        lambda self, seen, at: located.append((seen.file.name, at)) or locate(self, seen, at),
    )
    given = ["--click", "--output", tmp_path, "--images", photos / "a.png"]
    assert call(*arguments(trained, *given))[0] == 0
    assert located == [("a.png", (69, 0))]


def test_a_window_closed_without_a_click(call, script, trained, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "check_display", lambda: None)
    monkeypatch.setattr("matplotlib.figure.Figure.ginput", lambda figure, number, timeout: [])
    status, _, err = call(*arguments(trained, "--click", "--output", tmp_path, "--images", photos))
    assert status == 2
    assert "a.png was closed without a click" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--images", "missing"], "there is no file or folder missing"),
        (["--images", "{empty}"], "expected images"),
        (["--images", "{bad}"], "bad.png cannot be read as an image"),
        (["--images", "{photos}", "--position", "60", "10"], "lies outside"),
        (["--images", "{photos}", "--layers", "res3.1"], "there is no layer res3.1; the model has res4.1"),
        (["--images", "{photos}", "--click"], "--click needs a display"),
        (["--images", "{photos}", "--weights", "gone.pth"], "gone.pth' does not exist"),
    ],
)
def test_bad_input_is_one_message(call, trained, photos, tmp_path, given, message, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    bad, empty = tmp_path / "bad.png", tmp_path / "empty"
    bad.write_bytes(b"no image")
    empty.mkdir()
    given = [item.format(bad=bad, empty=empty, photos=photos) for item in given]
    status, _, err = call(*arguments(trained, *given, "--output", tmp_path / "out"))
    assert status == 2
    assert err.count("error: ") == 1
    assert message in err


def test_weights_are_needed(call, photos, tmp_path):
    status, _, err = call(*arguments(tmp_path, "--images", photos))
    assert status == 2
    assert f"train.output_dir={tmp_path} holds no checkpoint; give --weights FILE" in err


def test_convolutions_have_no_attention(call, photos, tmp_path):
    cfg = load_config(config("conv"), tiny_options(tmp_path))
    settle(cfg)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "conv.pth")
    given = ["--weights", tmp_path / "conv.pth", "--images", photos]
    status, _, err = call(*arguments(tmp_path, *given, operator="conv"))
    assert status == 2
    assert "expected a model with operators of the slot" in err


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier's run as training leaves it, and the pictures it was evaluated on."""
    data = generate_shape_images(
        tmp_path_factory.mktemp("data") / "set", num_images=150, image_size=40, seed=0
    )
    folder = tmp_path_factory.mktemp("classifier")
    options = [*TINY_CLASSIFIER, "model.backbone.operator=self_attention", f"train.output_dir={folder}"]
    given = ["--config-file", CLASSIFIER, "--data", str(data), *options, "train.max_iter=1"]
    assert pretrain(given) == 0
    return folder, data


def test_a_classifier_and_its_accuracy_without_own_positions(call, classifier):
    folder, data = classifier
    given = ["--config-file", folder / "config.yaml", "--data", data, "--limit", 3, "--maps", 1]
    status, out, err = call(*given, "--position", 20, 20, "--images", data / "val")
    assert status == 0, err
    assert re.search(r"Top-1 accuracy: [\d.]+% as trained, [\d.]+% with no position attending to itself", out)
    assert re.search(r"\| dropped +\| +[\d.]+ \| +[\d.]+ \| +[\d.]+ \|", out)
    found = json.loads((folder / "terms/terms.json").read_text(encoding="utf-8"))
    assert found["images"] == 3
    assert found["accuracy"]["own_position"] == "dropped"
    assert all(layer["operator"] == "SelfAttention" for layer in found["layers"])
    assert len(list((folder / "terms").glob("maps_*.png"))) == 1


def test_the_other_way_to_leave_out_own_positions(call, script, classifier, tmp_path, monkeypatch):
    folder, data = classifier
    asked, leave_out = [], script.without_own_position
    monkeypatch.setattr(
        script, "without_own_position", lambda model, *way: asked.append(way) or leave_out(model, *way)
    )
    given = ["--config-file", folder / "config.yaml", "--data", data, "--limit", 1, "--maps", 0]
    given += ["--own-position", "masked", "--output", tmp_path, "--images", data / "val"]
    status, out, err = call(*given)
    assert status == 0, err
    assert asked == [("masked",)]
    assert "the weights of the others sum to one" in out


def test_maps_of_a_classifier_need_no_data_set(call, classifier, photos, tmp_path, monkeypatch):
    folder, _ = classifier
    config = tmp_path / "config.yaml"
    config.write_text((folder / "config.yaml").read_text().replace(str(classifier[1]), "/nowhere"))
    given = ["--config-file", config, "--weights", folder / "model_final.pth", "--output", tmp_path / "out"]
    status, _, err = call(*given, "--images", photos)
    assert status == 0, err


def test_an_output_that_cannot_be_made(call, trained, photos, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = call(*arguments(trained, "--output", tmp_path / "file", "--images", photos))
    assert status == 2
    assert "cannot be made" in err


def test_accuracy_is_for_classifiers(call, trained, photos):
    status, _, err = call(*arguments(trained, "--accuracy", "--images", photos))
    assert status == 2
    assert "are for classifiers" in err


@pytest.mark.parametrize("given", [["--heads"], ["--maps", "-1"], ["--limit", "0"]])
def test_options_that_make_no_sense(call, trained, photos, given):
    status, _, err = call(*arguments(trained, *given, "--images", photos))
    assert status == 2
    assert given[0] in err
