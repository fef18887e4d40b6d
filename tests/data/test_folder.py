"""Another format than COCO is one class, which then trains as COCO folders do."""

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from omegaconf import OmegaConf
from PIL import Image
from runs import ROOT, TINY, train

from lesa_d2.config import load_config
from lesa_d2.data import (
    CocoFolder,
    DatasetFolder,
    DatasetProblemsError,
    Problem,
    folder,
    folder_split,
    open_folder,
    register_format,
)
from lesa_d2.data.registration import readable_name, register_dataset
from lesa_d2.errors import DatasetError

SIZE = 48


@dataclass(frozen=True)
class CsvFolder(DatasetFolder):
    """A file boxes.csv with the columns split, file, label, x, y, width and height, and the images beside it."""

    root: Path

    @classmethod
    def recognise(cls, root):
        return cls(root) if (root / "boxes.csv").is_file() else None

    @classmethod
    def explain(cls, root):
        return "or boxes.csv beside the images"

    def rows(self, split=None):
        with open(self.root / "boxes.csv", newline="") as file:
            return [row for row in csv.DictReader(file) if split in (None, row["split"])]

    @property
    def classes(self):
        return sorted({row["label"] for row in self.rows()})

    @property
    def has_masks(self):
        return False

    def problems(self):
        missing = [row["file"] for row in self.rows() if not (self.root / row["file"]).is_file()]
        return [Problem("missing image", "boxes.csv", name, "Put the file there.") for name in missing]

    def check(self):
        if problems := self.problems():
            raise DatasetProblemsError(str(self.root), problems)

    def register(self, split, *, seed=0, val_fraction=0.2, drop_invalid=False):
        name = f"csv_{self.root.parent.name}_{split}"
        return register_dataset(name, partial(self.load, split), thing_classes=self.classes)

    def load(self, split):
        return [
            {
                "file_name": str(self.root / row["file"]),
                "image_id": number,
                "height": SIZE,
                "width": SIZE,
                "annotations": [
                    {
                        "bbox": [float(row[key]) for key in ("x", "y", "width", "height")],
                        "bbox_mode": BoxMode.XYWH_ABS,
                        "category_id": self.classes.index(row["label"]),
                    }
                ],
            }
            for number, row in enumerate(self.rows(split))
        ]


@pytest.fixture
def csv_folder(tmp_path, monkeypatch):
    """A folder of that format, which is registered for one test."""
    monkeypatch.setattr(folder, "FORMATS", [*folder.FORMATS])
    register_format(CsvFolder)
    root = tmp_path / "data"
    root.mkdir()
    lines = ["split,file,label,x,y,width,height"]
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        lines.append(f"{'val' if number > 3 else 'train'},{number}.png,{'ab'[number % 2]},8,4,20,30")
    (root / "boxes.csv").write_text("\n".join(lines))
    return root


def test_a_registered_format_is_recognised(csv_folder):
    opened = open_folder(csv_folder)
    assert isinstance(opened, CsvFolder)
    name = folder_split(str(csv_folder), "train")
    assert len(DatasetCatalog.get(name)) == 4
    assert MetadataCatalog.get(name).thing_classes == ["a", "b"]


def test_people_read_folder_and_part(csv_folder, coco, write):
    parts = [("train", "training"), ("val", "validation")]
    assert [readable_name(folder_split(str(csv_folder), split)) for split, _ in parts] == [
        f"{csv_folder.name}, {part}" for _, part in parts
    ]
    folder = csv_folder / "été à la mer (2)"
    write(folder / "labels.json", coco(3), folder / "images")
    name = folder_split(str(folder), "val")
    assert readable_name(name) == "été à la mer (2), validation"
    assert readable_name(folder_split(str(folder), "val")) == "été à la mer (2), validation"
    assert readable_name("coco_2017_val") == "coco_2017_val"


def test_coco_comes_first(csv_folder, coco, write):
    write(csv_folder / "labels.json", coco(3), csv_folder / "images")
    assert isinstance(open_folder(csv_folder), CocoFolder)


def test_every_format_says_what_it_accepts(csv_folder):
    (csv_folder / "boxes.csv").unlink()
    with pytest.raises(DatasetError, match=r"(?s)in annotations/.*or boxes\.csv beside the images"):
        open_folder(csv_folder)


def test_it_trains_and_evaluates(csv_folder, tmp_path, capfd):
    options = [option for option in TINY if ".names." not in option]
    flags = ["--config-file", str(ROOT / "configs/quickstart_lesa.py"), "--dataset", str(csv_folder)]
    once = ["train.max_iter=1", f"train.output_dir={tmp_path / 'run'}"]
    assert train([*flags, *options, *once]) == 0
    assert "classes" in capfd.readouterr().out
    saved = load_config(str(tmp_path / "run/config.yaml"))
    assert saved.model.roi_heads.num_classes == 2
    assert "AP" in (tmp_path / "run/evaluation.md").read_text()
    (csv_folder / "5.png").unlink()
    assert train([*flags, *options, *once]) != 0
    assert "missing image (1): Put the file there." in capfd.readouterr().err


@pytest.mark.parametrize(
    "saved", ["lesa_d2.data.coco_folder_split", "lesa_d2.data.coco_folder.coco_folder_split"]
)
def test_runs_saved_by_earlier_versions_still_find_their_data(tmp_path, coco, write, saved):
    write(tmp_path / "data/labels.json", coco(5), tmp_path / "data/images")
    arguments = dict(directory=str(tmp_path / "data"), split="val", seed=3, drop_invalid=True)
    assert instantiate(OmegaConf.create({"_target_": saved, **arguments})) == folder_split(**arguments)
