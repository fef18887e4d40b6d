"""``lesa demo`` on tiny detectors of both kinds."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model as build_yacs_model
from PIL import Image
from runs import ROOT, lesa, tiny_options
from torch import nn

from lesa_d2.commands import demo as command
from lesa_d2.config import load_any_config, load_config, save_config
from lesa_d2.engine import build_model
from lesa_d2.engine.device import settle
from lesa_d2.tools.demo import VideoReader, VideoWriter

YACS = str(ROOT / "configs/yacs/mask_rcnn_lesa_r50.yaml")


@pytest.fixture(scope="module")
def script():
    return command


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for name, size in (("a.png", (50, 70)), ("b.jpg", (90, 60)), ("more/a.png", (40, 40))):
        cv2.imwrite(str(folder / name), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    writer = VideoWriter(tmp_path_factory.mktemp("video") / "clip", 10)
    for index in range(5):
        writer.write(np.full((48, 64, 3), 40 * index, np.uint8))
    writer.close()
    return writer.file


def save_trained(model, file):
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    torch.save({"model": model.state_dict()}, file)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder as training leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    cfg = load_config(str(ROOT / "configs/quickstart_lesa.py"), tiny_options(folder))
    settle(cfg)
    cfg.train.class_names = [f"shape {index}" for index in range(cfg.model.roi_heads.num_classes)]
    save_config(cfg, folder)
    save_trained(build_model(cfg), folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    return folder


@pytest.fixture(scope="module")
def yacs(tmp_path_factory):
    """The same for yacs."""
    folder = tmp_path_factory.mktemp("yacs")
    keys = ["MODEL.DEVICE=cpu", "MODEL.LESA.BLOCKS=[1,1,2,1]", "MODEL.RESNETS.RES2_OUT_CHANNELS=32"]
    keys += ["MODEL.LESA.NUM_HEADS=4", "INPUT.MIN_SIZE_TEST=64", "INPUT.MAX_SIZE_TEST=64"]
    keys += ["MODEL.ROI_BOX_HEAD.FC_DIM=32", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.01"]
    cfg = load_any_config(YACS, keys)
    save_trained(build_yacs_model(cfg), folder / "weights.pth")
    (folder / "yacs.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def call():
    """Run it in this process: exit status, standard output and error."""

    def run(*given):
        done = lesa("demo", *given)
        return done.returncode, done.stdout, done.stderr

    return run


def written(folder):
    return sorted(file.name for file in folder.iterdir())


def test_as_a_user_runs_it(trained, photos, tmp_path):
    out = tmp_path / "drawn"
    done = lesa(
        "demo",
        *("--config-file", trained / "config.yaml", "--input", photos, "--output", out, "--report"),
        *("--confidence-threshold", 0.15),
    )
    assert done.returncode == 0, done.stderr
    assert "pictures with any" in done.stdout
    assert "shape 0" in done.stdout or "shape 1" in done.stdout or "shape 2" in done.stdout
    assert "images: 100%" in done.stderr
    assert written(out) == ["2_a.png", "a.png", "b.jpg", "predictions.json", "report.html"]
    saved = json.loads((out / "predictions.json").read_text())
    assert [picture["file"] for picture in saved["pictures"]] == [
        str(photos / name) for name in ("a.png", "b.jpg", "more/a.png")
    ]
    assert all(d["score"] >= 0.15 for picture in saved["pictures"] for d in picture["detections"]["tiny"])
    assert "data:image" in (out / "report.html").read_text()


def test_both_kinds_side_by_side(trained, yacs, photos, tmp_path, call):
    status, out, _ = call(
        *("--config-file", trained / "config.yaml", "--compare", yacs / "yacs.yaml"),
        *("--weights", trained / "model_final.pth", yacs / "weights.pth", "--titles", "Lazy", "Yacs"),
        *("--input", str(photos / "*.png"), "--output", tmp_path, "--confidence-threshold", 0.01),
    )
    assert status == 0
    assert "| Lazy " in out
    assert "| Yacs " in out
    assert cv2.imread(str(tmp_path / "a.png")).shape[1] == 320 + 6 + 320
    saved = json.loads((tmp_path / "predictions.json").read_text())
    assert [len(found) > 0 for found in saved["pictures"][0]["detections"].values()] == [True, True]


def test_overrides_after_a_list(trained, photos, tmp_path, call):
    status, out, _ = call(
        *("--config-file", trained / "config.yaml", "--output", tmp_path, "--input", photos / "a.png"),
        *("model.roi_heads.box_predictor.test_score_thresh=0.999", "--confidence-threshold=0"),
    )
    assert status == 0
    assert "no detection reaches the score 0" in out


def test_video(trained, video, tmp_path, call):
    status, _, err = call(
        "--config-file", trained / "config.yaml", "--video-input", video, "--output", tmp_path, "--frames", 3
    )
    assert status == 0
    assert written(tmp_path) == ["clip.json", "clip.webm"]
    reader = VideoReader(str(tmp_path / "clip.webm"))
    assert (len(list(reader)), reader.rate) == (3, 10)
    assert "/3 [" in err  # progress knows the end
    assert len(json.loads((tmp_path / "clip.json").read_text())["pictures"]) == 3


def test_broken_pictures_are_named_and_the_rest_is_done(trained, photos, tmp_path, call):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    deep = tmp_path / "deep.png"
    cv2.imwrite(str(deep), np.full((20, 30), 900, np.uint16))  # Pillow would clip it to white
    out = tmp_path / "out"
    status, printed, err = call(
        *("--config-file", trained / "config.yaml", "--output", out),
        *("--input", photos / "a.png", broken, deep, photos / "b.jpg"),
    )
    assert status == 2
    assert "2 of 4 files were left out" in err
    assert "broken.jpg cannot be read as an image" in err
    assert "deep.png cannot be read as an image: it has more than 8 bits" in err
    assert written(out) == ["a.png", "b.jpg", "predictions.json"]
    assert "of 2" in printed


def test_what_a_folder_holds_beside_pictures_is_said(trained, tmp_path, call, caplog):
    """Pictures of all kinds are drawn, a GIF too."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(folder / "moving.gif")
    for name in ("clip.mp4", "phone.heic", "other.heic", ".hidden"):
        (folder / name).touch()
    out = tmp_path / "out"
    status, printed, _ = call("--config-file", trained / "config.yaml", "--input", folder, "--output", out)
    assert status == 0
    assert "of 1" in printed
    assert written(out) == ["moving.gif.jpg", "predictions.json"]
    assert "left out: 2 with the suffix .heic, 1 with the suffix .mp4; pictures are .jpg" in caplog.text


def test_a_gpu_that_is_asked_for_must_be_there(trained, photos, tmp_path, call, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ("--input", photos, "--output", tmp_path, "--device", "cuda")
    status, _, err = call("--config-file", trained / "config.yaml", *arguments)
    assert status == 2
    assert "'cuda' was asked for, and PyTorch finds no GPU" in err


def test_averaged_weights_are_named(trained, photos, tmp_path, call):
    file = trained / "model_final.pth"
    weights = torch.load(file, weights_only=True)["model"]
    averaged = tmp_path / "averaged.pth"
    torch.save({"model": weights, "ema": {**weights, "n_averaged": torch.tensor(3)}}, averaged)
    for path, named in (
        (file, f"weights {file}\n"),
        (averaged, f"weights {averaged} (the averaged ones in it)\n"),
    ):
        arguments = ("--input", photos / "a.png", "--output", tmp_path / "out", "--weights", path)
        _, out, _ = call("--config-file", trained / "config.yaml", *arguments)
        assert named in out


def test_windows(trained, photos, video, call, script, monkeypatch):
    shown = []
    monkeypatch.setattr(script, "check_display", lambda: None)
    monkeypatch.setattr(script.cv2, "setWindowTitle", lambda window, title: shown.append(title))
    monkeypatch.setattr(script.cv2, "imshow", lambda window, picture: shown.append(picture.shape))
    keys = iter([-1, ord("q"), -1, 27])
    monkeypatch.setattr(script.cv2, "waitKey", lambda wait: next(keys))
    config = ("--config-file", trained / "config.yaml")
    assert call(*config, "--input", photos)[0] == 0
    assert shown[::2] == ["a.png", "b.jpg"]  # q
    assert call(*config, "--video-input", video)[0] == 0
    assert shown[4::2] == ["clip", "clip"]  # Esc


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "nowhere.jpg", "--output", "{tmp}"], "there is no file or folder nowhere.jpg"),
        (["--input", "{tmp}/*.jpg", "--output", "{tmp}"], "nothing matches"),
        (["--video-input", "nowhere.mp4", "--output", "{tmp}"], "there is no video file 'nowhere.mp4'"),
        (["--webcam", "--camera", "99", "--output", "{tmp}"], "camera 99 cannot be opened"),
        (["--input", "{photo}"], "there is no display"),
        (["--input", "{photo}", "--output", "{photo}"], "cannot be made: it is a file"),
        (["--input", "{photo}", "--output", "{tmp}", "--weights", "a", "b"], "--weights: expected one"),
        (["--input", "{photo}", "--output", "{tmp}", "--weights", "no.pth"], "'no.pth' does not exist"),
        (["--input", "{photo}", "--output", "{tmp}", "model.nothing=1"], "unknown config key"),
        (["--input", "{photo}", "--output", "{photos}"], "a.png would be overwritten"),
    ],
)
def test_bad_input_is_one_message(arguments, message, trained, photos, tmp_path, call, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    given = [text.format(tmp=tmp_path, photo=photos / "a.png", photos=photos) for text in arguments]
    status, _, err = call("--config-file", trained / "config.yaml", *given)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("config", ["quickstart_lesa", str(ROOT / "configs/mask_rcnn_lesa_dconv_r50_20e.py")])
def test_without_trained_weights(config, photos, tmp_path, call, monkeypatch):
    """The model zoo's own message: how to make or convert the detector's weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESA_MODELS", str(tmp_path))
    status, _, err = call("--config-file", config, "--input", photos, "--output", tmp_path / "out")
    assert status == 2
    assert f"{config.removesuffix('.py').rpartition('/')[2]}.pth" in err
    assert "lesa convert" in err


def test_a_run_that_was_moved(trained, photos, tmp_path, call):
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    text = (moved / "config.yaml").read_text().replace(str(trained), str(tmp_path / "nowhere"))
    (moved / "config.yaml").write_text(text)
    arguments = ("--input", photos / "a.png", "--output", tmp_path / "out")
    status, out, _ = call("--config-file", moved / "config.yaml", *arguments)
    assert status == 0
    assert f"weights {moved / 'model_final.pth'}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --input, --video-input and --webcam"),
        (["--input", "a.jpg", "--webcam"], "give one of"),
        (["--webcam", "--report"], "--report is a page about the images of --input"),
        (["--input", "a.jpg", "--confidence-threshold", "1.5"], "must lie between 0 and 1"),
        (["--webcam", "--frames", "0"], "--frames must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message, call):
    status, _, err = call("--config-file", "x.py", *arguments)
    assert status == 2
    assert message in err
