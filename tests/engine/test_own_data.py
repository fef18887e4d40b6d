"""From a folder of one's own to a detector: what is written on the way."""

import json
import shutil

import numpy as np
import pytest
from detectron2.config import instantiate
from PIL import Image
from runs import ROOT, TINY, losses, train, train_net
from test_cascades import write_folder

from lesa_d2.engine import load_config

CONFIG = str(ROOT / "configs/quickstart_lesa.py")
OPTIONS = [option for option in TINY if ".names." not in option]
EVALUATION = {"evaluation.md", "precision_recall.png", "confusion.png", "best.png", "worst.png"}
DATA = {"data_report.md", "data_samples.png"}
EVERYTHING = "model.roi_heads.box_predictor.test_score_thresh=0.0"


def run(folder, output_dir, *options, flags=()):
    flags = ["--config-file", CONFIG, "--dataset", str(folder), *flags]
    return train([*flags, *OPTIONS, f"train.output_dir={output_dir}", *options])


def written(folder):
    return {path.name for path in folder.iterdir()} & (EVALUATION | DATA)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    write_folder(folder / "data")
    assert run(folder / "data", folder / "run", EVERYTHING, "train.eval_period=2") == 0
    return folder


def test_reports_are_written(finished):
    assert written(finished / "run") == EVALUATION | DATA
    text = (finished / "run/data_report.md").read_text()
    assert ["images", "5", "1"] in [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()
    ]
    log = (finished / "run/log.txt").read_text()
    assert "# Evaluation on data, validation\n" in log
    assert "# Data: data, training; data, validation\n" in log
    assert log.count("Plots and pictures are drawn at the last evaluation") == 1  # of two evaluations


def test_pictures_of_every_evaluation(finished, tmp_path):
    options = [EVERYTHING, "train.eval_period=2", "train.report.pictures=every"]
    assert run(finished / "data", tmp_path / "run", *options) == 0
    assert "Plots and pictures are drawn" not in (tmp_path / "run/log.txt").read_text()
    assert written(tmp_path / "run") == EVALUATION | DATA


def test_the_saved_config_holds_the_schedule(finished):
    cfg = load_config(str(finished / "run/config.yaml"))
    assert cfg.train.max_iter == 4  # given
    assert cfg.train.checkpointer.period == 1  # a fifth
    assert cfg.train.eval_period == 2
    assert cfg.lr_multiplier.warmup_length == 0.2
    assert cfg.train.reference_images == 4  # with objects, without the one for validation
    assert cfg.train.report.enabled


def test_evaluation_alone_reports_too(finished, tmp_path):
    assert run(finished / "data", tmp_path, EVERYTHING, *start(finished), flags=["--eval-only"]) == 0
    assert written(tmp_path) == EVALUATION


def test_it_can_be_switched_off(finished, tmp_path):
    options = [*start(finished), "train.report.enabled=False"]
    assert run(finished / "data", tmp_path, *options, flags=["--eval-only"]) == 0
    assert written(tmp_path) == set()


def test_nothing_detected(finished, tmp_path, capfd):
    threshold = "model.roi_heads.box_predictor.test_score_thresh=0.999"
    assert run(finished / "data", tmp_path, threshold, *start(finished), flags=["--eval-only"]) == 0
    assert written(tmp_path) == {"evaluation.md"}
    text = (tmp_path / "evaluation.md").read_text()
    assert "No detection reaches the model's test_score_thresh" in text


def start(finished):
    return [f"train.init_checkpoint={finished / 'run/model_final.pth'}"]


def test_two_processes(finished, tmp_path):
    flags = ["--config-file", CONFIG, "--dataset", finished / "data"]
    options = [*OPTIONS, EVERYTHING, f"train.output_dir={tmp_path / 'run'}", "train.max_iter=1"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = train_net(*flags, *options, launcher=torchrun)
    assert process.returncode == 0, process.stderr
    assert written(tmp_path / "run") == EVALUATION | DATA
    assert process.stdout.count("Schedule: ") == 1


def test_what_is_left_out_is_said(finished, tmp_path):
    folder = write_folder(tmp_path / "data")
    data = json.loads((folder / "labels.json").read_text())
    data["annotations"].append({**data["annotations"][0], "id": 20, "bbox": [1, 1, -4, 5]})
    (folder / "labels.json").write_text(json.dumps(data))
    assert run(folder, tmp_path / "run", "train.max_iter=1", flags=["--drop-invalid"]) == 0
    assert "- reversed box: 1" in (tmp_path / "run/data_report.md").read_text()


def test_a_plain_evaluator_is_replaced_by_one_that_reports(finished, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        f"from detectron2.evaluation import COCOEvaluator\n"
        f"from lesa_d2.config import load_config\n"
        f"cfg = load_config({CONFIG!r})\n"
        f"model, dataloader, optimizer = cfg.model, cfg.dataloader, cfg.optimizer\n"
        f"train, lr_multiplier = cfg.train, cfg.lr_multiplier\n"
        f"dataloader.evaluator._target_ = COCOEvaluator\n"
    )
    flags = ["--config-file", str(file), "--dataset", str(finished / "data"), "--eval-only"]
    options = [*OPTIONS, f"train.output_dir={tmp_path / 'run'}", *start(finished), EVERYTHING]
    assert train([*flags, *options]) == 0
    assert written(tmp_path / "run") == EVALUATION


def test_a_report_is_for_boxes_and_masks(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    options = ["train.report.enabled=True", f"train.output_dir={tmp_path / 'run'}"]
    assert train(["--config-file", "semantic_fpn_lesa_r50", *options]) == 2
    assert "is for boxes and masks and needs lesa_d2.evaluation.CocoEvaluator" in capsys.readouterr().err


def test_samples_can_be_looked_at(finished):
    assert np.asarray(Image.open(finished / "run/data_samples.png")).std() > 10


def test_every_layout_trains_bit_for_bit_alike(finished, tmp_path):
    """With one file to be split: in images/, among the pictures, in annotations/, and with folders in the names."""
    source = finished / "data"
    data = json.loads((source / "labels.json").read_text())
    found = {}
    for name, (file, images, prefix) in {
        "images": ("labels.json", "images", ""),
        "among": ("_annotations.coco.json", ".", ""),
        "cvat": ("annotations/instances_default.json", "images/default", ""),
        "labelme2coco": ("trainval.json", "JPEGImages", "JPEGImages/"),
    }.items():
        folder = tmp_path / name / "data"
        shutil.copytree(source / "images", folder / images)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        named = [{**image, "file_name": prefix + image["file_name"]} for image in data["images"]]
        (folder / file).write_text(json.dumps({**data, "images": named}))
        assert run(folder, tmp_path / name / "run", "train.max_iter=3", "train.report.enabled=False") == 0
        found[name] = losses(tmp_path / name / "run")
    assert len(found["images"]) == 3
    assert all(of == found["images"] for of in found.values())


PHOTOS = [
    "model.backbone.bottom_up.base_channels=8",
    "model.backbone.bottom_up.num_heads=4",
    "model.backbone.bottom_up.blocks=[1,1,2,1]",
    "model.backbone.bottom_up.image_size=64",
    "model.backbone.bottom_up.norm=BN",
    "model.backbone.bottom_up.freeze_at=0",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[48,80]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.proposal_generator.post_nms_topk=[30,10]",
    "model.roi_heads.batch_size_per_image=16",
    "train.init_checkpoint=''",
    "train.max_iter=1",
]


def test_the_recipe_for_photographs(finished, tmp_path):
    flags = ["--config-file", "own_photos_lesa", "--dataset", finished / "data"]
    assert train([*flags, *PHOTOS, EVERYTHING, f"train.output_dir={tmp_path / 'run'}"]) == 0
    assert written(tmp_path / "run") == EVALUATION | DATA


@pytest.mark.parametrize(("size", "seen"), [((600, 800), (512, 683)), ((800, 400), (853, 427))])
def test_the_recipe_for_photographs_keeps_the_aspect_ratio(size, seen, tmp_path):
    cfg = load_config("own_photos_lesa")
    assert cfg.train.init_checkpoint == "torchvision://resnet50"
    Image.new("RGB", size[::-1]).save(tmp_path / "photo.jpg")
    record = {
        "file_name": str(tmp_path / "photo.jpg"),
        "height": size[0],
        "width": size[1],
        "annotations": [],
    }
    assert instantiate(cfg.dataloader.test.mapper)(record)["image"].shape[1:] == seen
    training = instantiate(cfg.dataloader.train.mapper)(record)["image"].shape[1:]
    assert training[0] / training[1] == pytest.approx(size[0] / size[1], rel=0.02)
