"""A picture that breaks after the check of the data is named by whatever opens it: one message, exit status 2."""

import os
import re
import shutil

import pytest
from PIL import Image
from runs import ROOT, TINY, lesa
from test_bad_input import GOOD, write_folder

OPTIONS = [option for option in TINY if ".names." not in option]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one iteration on a folder of four pictures, one of them for validation."""
    folder = tmp_path_factory.mktemp("finished")
    write_folder(folder / "data", GOOD)
    flags = ["--config-file", ROOT / "configs/quickstart_lesa.py", "--dataset", folder / "data"]
    options = [
        *OPTIONS,
        "train.max_iter=1",
        "train.report.enabled=False",
        f"train.output_dir={folder / 'run'}",
    ]
    assert lesa("train", *flags, *options).returncode == 0
    return folder


@pytest.fixture
def run_again(finished, tmp_path):
    """Run from the saved config, which does not check the data, on a copy of them."""
    shutil.copytree(finished / "data", tmp_path / "data")
    text = (finished / "run/config.yaml").read_text().replace(str(finished / "data"), str(tmp_path / "data"))
    (tmp_path / "config.yaml").write_text(text)

    def run_again(*options, flags=()):
        weights = f"train.init_checkpoint={finished / 'run/model_final.pth'}"
        target = f"train.output_dir={tmp_path / 'again'}"
        return lesa("train", "--config-file", tmp_path / "config.yaml", *flags, weights, target, *options)

    return run_again


def truncate(file):
    Image.effect_noise((40, 30), 90).save(file)
    file.write_bytes(file.read_bytes()[:600])


def turn(file):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(file, exif=exif)


def pipe(file):
    file.unlink()
    os.mkfifo(file)


KINDS = {
    "truncated": (truncate, "truncated"),
    "turned": (turn, r"got \(30, 40\), expect \(40, 30\)"),
    "pipe": (pipe, "pipe"),
    "16 bits": (lambda file: Image.new("I;16", (40, 30), 900).save(file), "more than 8 bits"),
}


def test_missing_pictures_are_named_when_the_data_are_read(run_again, tmp_path):
    (tmp_path / "data/images/0.png").unlink()
    result = run_again(flags=["--eval-only"])
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "missing image file (1): Put the file there" in result.stderr
    assert str(tmp_path / "data/images/0.png") in result.stderr


@pytest.mark.parametrize(
    ("kind", "loader", "workers"),
    [*((kind, "test", 0) for kind in KINDS), ("truncated", "train", 0), ("truncated", "test", 1)],
)
def test_training_and_evaluation_name_the_file(run_again, tmp_path, kind, loader, workers):
    break_it, reason = KINDS[kind]
    for file in (tmp_path / "data/images").iterdir():
        break_it(file)
    options = [f"dataloader.{loader}.num_workers={workers}", "train.report.enabled=False"]
    result = run_again(*options, flags=["--eval-only"] if loader == "test" else [])
    assert result.returncode == 2
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    *_, message = result.stderr.splitlines()
    assert message.startswith(f"error: {tmp_path}/data/images/"), message
    assert re.search(reason, message), message
