import pytest
import torch
from detectron2.utils.file_io import PathManager

from lesa_d2.checkpoint import models_folder
from lesa_d2.errors import CheckpointError


def test_prefix_reads_from_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path))
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth")
    assert models_folder() == tmp_path
    assert PathManager.get_local_path("lesa://x.pth") == str(tmp_path / "x.pth")
    with PathManager.open("lesa://x.pth", "rb") as file:
        assert torch.load(file, weights_only=True)["a"].tolist() == [1, 1]
    assert PathManager.isfile("lesa://x.pth")
    assert not PathManager.isfile("lesa://y.pth")


def test_missing_weights_say_what_is_there_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path))
    torch.save({}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError) as error:
        PathManager.get_local_path("lesa://imagenet_lesa_r50.pth")
    for words in (
        str(tmp_path / "imagenet_lesa_r50.pth"),
        "other.pth",
        "configs/imagenet_lesa_r50.py",
        "convert_checkpoint.py",
        'train.init_checkpoint=""',
    ):
        assert words in str(error.value)


def test_a_missing_start_of_a_yacs_detector_names_its_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path))
    with pytest.raises(CheckpointError) as error:
        PathManager.get_local_path("lesa://start_lesa_r50.pth")
    command = f"imagenet-to-detector {tmp_path / 'imagenet_lesa_r50.pth'} {tmp_path / 'start_lesa_r50.pth'}"
    assert command in str(error.value)
    assert "MODEL.WEIGHTS" in str(error.value)
