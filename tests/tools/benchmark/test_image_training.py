"""Reading for pre-training, and the table of pictures a second."""

from pathlib import Path

import pytest

from lesa_d2.tools.benchmark import Measurement, image_training
from lesa_d2.tools.benchmark.report import Throughput

CONFIG = str(Path(__file__).resolve().parents[3] / "configs/imagenet_lesa_r50.py")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_of_the_loader_reads_as_many_pictures_as_it_says(tmp_path, workers, monkeypatch):
    folder = image_training.photographs(tmp_path, count=3)
    assert len(list(folder.rglob("*.jpg"))) == 6
    read = []
    build_loader = image_training.build_loader

    def counted(cfg):
        return [
            len(batch["label"]) and read.append(batch["image"].shape) for batch in take(build_loader(cfg))
        ]

    def take(loader):
        return (batch for batch, _ in zip(loader, range(4), strict=False))

    monkeypatch.setattr(image_training, "build_loader", counted)
    step = image_training.image_loader(
        "training", config_file=CONFIG, folder=str(folder), images=8, workers=workers
    )
    step()
    assert read == [(2, 3, 224, 224)] * 4


def test_pictures_a_second_by_hand():
    found = [Measurement("step", "training", [2.0]), Measurement("reading", "training", [0.5])]
    rows = Throughput("title", found, plain="step", images=16).table().splitlines()
    assert rows[2].split() == ["|", "step", "|", "8.0", "|", "1.0×", "|"]
    assert rows[3].split() == ["|", "reading", "|", "32.0", "|", "4.0×", "|"]
