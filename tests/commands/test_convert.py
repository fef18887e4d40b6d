"""``lesa convert --from convolution``: files, pictures, and what cannot be used."""

import cv2
import numpy as np
import pytest
import torch
from runs import TINY, initial_weights, lesa

from lesa_d2.checkpoint import to_official
from lesa_d2.config import load_config
from lesa_d2.engine import build_model
from lesa_d2.modeling import build_lesa_resnet

SMALL = {"base_channels": 8, "stem_channels": 8, "blocks": (1, 1, 2, 1)}
OPTIONS = [*TINY, "train.device=cpu"]


@pytest.fixture
def torchvision_file(tmp_path):
    """A file with torchvision's names."""
    model = build_lesa_resnet("conv", **SMALL, num_classes=5, num_heads=4)
    torch.save(to_official(model.state_dict()), tmp_path / "resnet.pth")
    return tmp_path / "resnet.pth"


@pytest.fixture
def pictures(tmp_path):
    """Five pictures of two sizes, in folders, with a file that is none."""
    rng = np.random.default_rng(0)
    for index, size in enumerate(((60, 80), (60, 80), (50, 50), (60, 80), (60, 80))):
        folder = tmp_path / f"pictures/{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.jpg"), rng.integers(0, 256, (*size, 3), np.uint8))
    (tmp_path / "pictures/notes.txt").write_text("none")
    return tmp_path / "pictures"


def convert(source, target, *options):
    return lesa("convert", "--from", "convolution", source, target, *options)


def test_a_classifier_becomes_the_start_of_a_detector(torchvision_file, pictures, tmp_path):
    options = ["--config-file", "quickstart_lesa", "--images", pictures, "--num-images", 4]
    small = [*OPTIONS, "model.backbone.bottom_up.stem_channels=8"]
    done = convert(torchvision_file, tmp_path / "start.pth", *options, *small)
    assert done.returncode == 0, done.stderr
    assert "res4.1.conv2  unary term from the convolution" in done.stdout
    assert "Warning" not in done.stdout
    assert "backbone.bottom_up.res4.1.conv2.unary.conv.weight" in (tmp_path / "start.txt").read_text()
    weights = torch.load(tmp_path / "start.pth")["model"]
    model = build_model(load_config("quickstart_lesa", small))
    backbone = {name for name in model.state_dict() if name.startswith("backbone.bottom_up.")}
    assert set(weights) == backbone  # all of it, as statistics and fresh weights belong together
    again = convert(torchvision_file, tmp_path / "start.pth", *options, *small)
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_without_config_the_network_is_read_from_the_file(torchvision_file, tmp_path):
    target = tmp_path / "start.safetensors"
    done = convert(
        torchvision_file, target, "--operator", "static_lesa", "model.backbone.bottom_up.num_heads=4"
    )
    assert done.returncode == 0, done.stderr
    assert "Warning: without --images" in done.stdout
    assert target.is_file()


def test_a_detector_keeps_its_heads(tmp_path):
    initial_weights(tmp_path / "conv.pth", "quickstart_conv", *OPTIONS)
    done = convert(tmp_path / "conv.pth", tmp_path / "out.pth", "--config-file", "quickstart_lesa", *OPTIONS)
    assert done.returncode == 0, done.stderr
    given, written = (torch.load(tmp_path / name)["model"] for name in ("conv.pth", "out.pth"))
    heads = [name for name in given if not name.startswith("backbone.bottom_up.")]
    assert all(torch.equal(written[name], given[name]) for name in heads)


def test_what_cannot_be_used_is_one_message(torchvision_file, pictures, tmp_path):
    config = ["--config-file", "quickstart_lesa", *OPTIONS, "model.backbone.bottom_up.stem_channels=8"]
    (tmp_path / "empty").mkdir()
    (pictures / "broken.jpg").write_bytes(b"no picture")
    lesa_file = tmp_path / "lesa.pth"
    initial_weights(lesa_file, "quickstart_lesa", *OPTIONS)
    for source, options, words in (
        (torchvision_file, ["--images", tmp_path / "empty"], "holds no pictures"),
        (torchvision_file, ["--images", pictures, "--num-images", 99], "broken.jpg cannot be read"),
        (torchvision_file, ["--num-images", 0, "--images", pictures], "--num-images must be at least 1"),
        (torchvision_file, ["model.backbone.bottom_up.blocks=[1,2,2,1]"], "is missing"),
        (lesa_file, ["model.backbone.bottom_up.stem_channels=32"], "no 3×3 convolutions in place of"),
        (tmp_path / "nothing.pth", [], "does not exist"),
    ):
        done = convert(source, tmp_path / "out.pth", *config, *options)
        assert (done.returncode, done.stderr.count("error: ")) == (2, 1), done.stderr
        assert words in done.stderr
        assert not (tmp_path / "out.pth").exists()
