"""Everything a user can get wrong ends in one message and a non-zero exit, before training starts."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from runs import ROOT, tiny_options, train, train_net

CONFIG = str(ROOT / "configs/quickstart_lesa.py")


def message(capsys, output_dir, *extra, flags=(), config=CONFIG):
    """Run in this process; returns the one message, after checking the exit status."""
    arguments = ["--config-file", config, *flags, *tiny_options(output_dir, *extra)]
    status = train(arguments)
    error = capsys.readouterr().err
    assert status == 2, error
    assert error.count("error: ") == 1
    assert "Traceback" not in error
    return error


def write_folder(folder, annotations, categories=(3, 7), broken_image=None):
    """One JSON with an images/ folder: four images of 40×30, and these annotations."""
    (folder / "images").mkdir(parents=True)
    images = []
    for index in range(4):
        name = f"{index}.png"
        Image.fromarray(np.full((30, 40, 3), 60 * index, np.uint8)).save(folder / "images" / name)
        images.append({"id": index, "file_name": name, "width": 40, "height": 30})
    if broken_image is not None:
        broken_image(folder / "images" / "0.png")
    names = [{"id": identity, "name": f"kind{identity}"} for identity in categories]
    data = {"images": images, "annotations": annotations, "categories": names}
    (folder / "labels.json").write_text(json.dumps(data))
    return folder


def annotation(identity, image, category=3, **changes):
    x, y, width, height = changes.pop("bbox", (4, 5, 20, 10))
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "id": identity,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": abs(width * height),
        "iscrowd": 0,
        "segmentation": [[float(value) for value in corners]],
        **changes,
    }


GOOD = [annotation(index, index, category=(3, 7)[index % 2]) for index in range(4)]


def test_ids_that_are_not_contiguous_train(tmp_path, capsys):
    folder = write_folder(tmp_path / "data", GOOD)
    flags = ["--dataset", str(folder)]
    arguments = ["--config-file", CONFIG, *flags, *tiny_options(tmp_path / "run", "train.max_iter=1")]
    assert train(arguments) == 0
    log = (tmp_path / "run/log.txt").read_text()
    assert "2: kind3, kind7" in log


def test_every_problem_is_listed_at_once(tmp_path, capsys):
    bad = [
        annotation(10, 0, bbox=(30, 5, 20, 10)),  # beyond the right edge
        annotation(11, 1, bbox=(5, 5, 0, 10)),  # zero area
        annotation(12, 2, bbox=(25, 5, -20, 10)),  # reversed
        annotation(13, 3, segmentation=[[1.0, 1.0, 5.0, 5.0]]),  # two points
    ]
    folder = write_folder(tmp_path / "data", GOOD + bad, broken_image=lambda file: file.unlink())
    text = message(capsys, tmp_path / "run", flags=["--dataset", str(folder)])
    for words in ("10", "11", "12", "13", "0.png"):
        assert words in text
    for words in ("outside", "zero", "negative|reversed", "3 points", "missing"):
        assert any(word in text for word in words.split("|")), words
    assert not (tmp_path / "run/metrics.json").exists()


def test_undecodable_image(tmp_path, capsys):
    folder = write_folder(
        tmp_path / "data", GOOD, broken_image=lambda file: file.write_bytes(b"not a picture")
    )
    assert "0.png" in message(capsys, tmp_path / "run", flags=["--dataset", str(folder)])


def test_drop_invalid_trains_on_the_rest(tmp_path):
    bad = [annotation(11, 1, bbox=(5, 5, 0, 10))]
    folder = write_folder(tmp_path / "data", GOOD + bad)
    flags = ["--dataset", str(folder), "--drop-invalid"]
    arguments = ["--config-file", CONFIG, *flags, *tiny_options(tmp_path / "run", "train.max_iter=1")]
    assert train(arguments) == 0


def test_missing_and_empty_folder(tmp_path, capsys):
    assert str(tmp_path / "nowhere") in message(
        capsys, tmp_path / "run", flags=["--dataset", str(tmp_path / "nowhere")]
    )
    (tmp_path / "empty").mkdir()
    assert "annotations" in message(capsys, tmp_path / "run", flags=["--dataset", str(tmp_path / "empty")])


def test_missing_coco(tmp_path, capsys, datasets):
    config = str(ROOT / "configs/mask_rcnn_lesa_r50.py")
    arguments = ["--config-file", config, f"train.output_dir={tmp_path / 'run'}"]
    assert train(arguments) == 2
    text = capsys.readouterr().err
    for words in ("coco_2017_train", "DETECTRON2_DATASETS", "--dataset DIR"):
        assert words in text


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.max_itr=5", "train.max_iter"),
        ("model.backbone.bottom_up.operater=conv", "model.backbone.bottom_up.operator"),
        ("optimiser.lr=1", "optimizer.lr"),
        ("model.roi_heads.box_head.input_shape.channel=3", "model.roi_heads.box_head.input_shape.channels"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path, capsys, override, nearest):
    text = message(capsys, tmp_path / "run", override)
    assert override.split("=")[0] in text
    assert f"did you mean {nearest!r}" in text


def test_divergence_is_one_message_that_names_a_module(tmp_path, capsys, datasets):
    text = message(capsys, tmp_path / "run", "optimizer.lr=1e30")
    assert "loss or gradient not finite at iteration" in text
    assert "first non-finite output: backbone" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_iter=0", "train.max_iter must be a whole number of at least 1, got 0"),
        ("train=3", "train must be a section of the config, got 3"),
        ("train.amp=True", "train.amp must be a section of the config, got True"),
        ("dataloader.train=null", "dataloader.train must be a section of the config, got None"),
        ("model=null", "model must be a section of the config, got None"),
        ("lr_multiplier=null", "lr_multiplier must be a section of the config, got None"),
        ("train.seed=4294967296", "train.seed must be a whole number from 0 to below 2^32"),
        ("train.class_names=[a,[b]]", "train.class_names must be a list of names"),
        ("model.backbone.bottom_up.operator=foo", "operator must be one of"),
        ("model.backbone.bottom_up.num_heads=5", "multiple of num_heads"),
        ("model.backbone.bottom_up.norm=GN", "norm must be one of"),
        ("model.pixel_mean=[1,2]", "cannot be built"),
        ("model.roi_heads.mask_in_features=[p2,p9]", "roi_heads.mask_in_features has ['p9']"),
        ("model.roi_heads.box_in_features=[null]", "cannot be built"),
        ("model.proposal_generator.in_features=[res4]", "proposal_generator.in_features has ['res4']"),
        ("model.pixel_mean=[1,2", "cannot read the value of the override 'model.pixel_mean=[1,2'"),
        ("--resume", "options go before key=value"),
    ],
)
def test_wrong_values(tmp_path, capsys, datasets, override, words):
    assert words in message(capsys, tmp_path / "run", override)
    assert not (tmp_path / "run/config.yaml").exists()


IDENTITY = "{_target_: torch.nn.Identity}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.tta.scales=[1,${train.seed}]", "train.tta.scales must be a list of positive numbers"),
        ("train.tta.scales=[1,${nowhere}]", "train.tta.scales must be a list of positive numbers"),
        ("train.tta.scales=[1,???]", "train.tta.scales must be a list of positive numbers"),
        ("train.class_names=[a,${train}]", "train.class_names must be a list of names"),
        ("dataloader.evaluator=3", "the config's evaluator must describe an object with reset"),
        ("dataloader.evaluator=[3]", "the config's evaluator must describe an object with reset"),
        (f"dataloader.evaluator={IDENTITY}", "the config's evaluator must describe an object with reset"),
        ("dataloader.train.dataset.names=3", "names must be the name of a registered data set"),
        ("dataloader.train.dataset.names=[3]", "names must be the name of a registered data set"),
        (f"dataloader.train={IDENTITY}", "dataloader.train must describe an object with __iter__"),
        (f"dataloader.test={IDENTITY}", "dataloader.test must describe an object with __iter__, __len__"),
        (f"dataloader.train.mapper={IDENTITY}", "the first step failed"),
        ("model.proposal_generator=null", 'the first step failed, .*assert "proposals" in'),
        ("model.backbone=null", "the first step failed"),
        ("model.roi_heads.box_predictor=null", "the first step failed"),
        (
            "model.proposal_generator.pre_nms_topk=[10,null]",
            "evaluation failed, .*TypeError: '<' not supported",
        ),
        (f"optimizer={IDENTITY}", "optimizer must describe an object with step"),
        ("optimizer.params=3", "optimizer has no params"),
        (f"lr_multiplier={IDENTITY}", "lr_multiplier must describe an object with step"),
    ],
)
def test_parts_of_another_kind(tmp_path, capsys, datasets, override, words):
    assert re.search(words, message(capsys, tmp_path / "run", "train.max_iter=1", override))


def test_output_folder_that_cannot_be_made(tmp_path, capsys, datasets):
    (tmp_path / "file").write_text("")
    assert "cannot be made: it is a file" in message(capsys, tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "it is a link to what does not exist" in message(capsys, tmp_path / "link")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\udcff"])
@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_names_that_no_folder_has(tmp_path, capsys, datasets, name, flags):
    assert "cannot be made" in message(capsys, f"{tmp_path}/{name}", flags=flags)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = (", "bad.py:1: SyntaxError"),
        ("import nowhere_at_all", "bad.py:1: ModuleNotFoundError"),
        ("x = 1", "does not define ['model'"),
        ("raise RuntimeError('ConfigError: all of it')", "bad.py:1: RuntimeError: ConfigError: all of it"),
        (
            "from lesa_d2 import model_zoo\n\nmodel_zoo.get_config('nowhere')",
            "bad.py:3: ConfigError: no config is named",
        ),
        ("from ............above import model", "bad.py:1"),
    ],
)
def test_config_that_cannot_be_loaded(tmp_path, capsys, text, words):
    (tmp_path / "bad.py").write_text(text)
    assert words in message(capsys, tmp_path / "run", config=str(tmp_path / "bad.py"))


def test_yacs_file_as_config(tmp_path, capsys):
    config = str(ROOT / "configs/yacs/mask_rcnn_lesa_r50.yaml")
    assert "yacs" in message(capsys, tmp_path / "run", config=config)


def test_drop_invalid_without_a_folder(tmp_path, capsys):
    assert "--dataset DIR" in message(capsys, tmp_path / "run", flags=["--drop-invalid"])


def test_boxes_without_masks_train_boxes(tmp_path, capsys):
    boxes = [annotation(index, index, segmentation=[]) for index in range(4)]
    folder = write_folder(tmp_path / "data", boxes, categories=(3,))
    arguments = ["--config-file", CONFIG, "--dataset", str(folder)]
    arguments += tiny_options(tmp_path / "run", "train.max_iter=1")
    assert train(arguments) == 0
    log = (tmp_path / "run/log.txt").read_text()
    assert "boxes only" in log
    assert "dataloader.train.dataset.names.num_images=12 has no effect" in log
    assert "Task: bbox" in log
    assert "Task: segm" not in log


@pytest.mark.parametrize("path", ["detectron2://nowhere.pkl", "lesa://../nowhere.pth"])
def test_weights_that_cannot_be_fetched(tmp_path, capsys, datasets, path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("iopath.common.file_io.download", refuse)
    message(capsys, tmp_path / "run", f"train.init_checkpoint={path}")


def test_eval_only_without_weights(tmp_path, capsys, datasets):
    text = message(capsys, tmp_path / "run", "train.init_checkpoint=", flags=["--eval-only"])
    assert "train.init_checkpoint" in text


def test_malformed_override(tmp_path, capsys):
    assert "key=value" in message(capsys, tmp_path / "run", "train.max_iter")


def test_missing_config(tmp_path, capsys):
    assert "nowhere.py" in message(capsys, tmp_path / "run", config=str(tmp_path / "nowhere.py"))


def test_wrong_number_of_classes(tmp_path, capsys, datasets):
    text = message(capsys, tmp_path / "run", "model.roi_heads.num_classes=7")
    assert "wrong number of classes" in text
    assert "num_classes=4" in text


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The weights of an untrained tiny LESA detector."""
    from lesa_d2.engine import build_model, load_config

    cfg = load_config(CONFIG, tiny_options("unused", "train.device=cpu"))
    file = tmp_path_factory.mktemp("weights") / "lesa.pth"
    torch.save({"model": build_model(cfg).state_dict()}, file)
    return file


def test_checkpoint_of_another_architecture(tmp_path, capsys, datasets, checkpoint):
    config = str(ROOT / "configs/quickstart_conv.py")
    text = message(capsys, tmp_path / "run", f"train.init_checkpoint={checkpoint}", config=config)
    assert "cannot start this model" in text
    assert "backbone.bottom_up.res4.1.conv2.weight" in text
    text = message(
        capsys, tmp_path / "run", f"train.init_checkpoint={checkpoint}", config=config, flags=["--eval-only"]
    )
    assert "is not a checkpoint of this model" in text


def test_checkpoint_with_other_classes(tmp_path, capsys, datasets, checkpoint):
    folder = write_folder(tmp_path / "data", GOOD)
    options = f"train.init_checkpoint={checkpoint}"
    text = message(capsys, tmp_path / "run", options, flags=["--dataset", str(folder)])
    assert "the file has 4, model.roi_heads.num_classes is 2" in text
    assert "train.init_partial=True" in text
    arguments = ["--config-file", CONFIG, "--dataset", str(folder)]
    arguments += tiny_options(tmp_path / "run", options, "train.init_partial=True", "train.max_iter=1")
    assert train(arguments) == 0


def test_damaged_checkpoint(tmp_path, capsys, datasets):
    file = tmp_path / "damaged.pth"
    file.write_bytes(b"not a checkpoint")
    text = message(capsys, tmp_path / "run", f"train.init_checkpoint={file}")
    assert "cannot be read" in text


def test_missing_checkpoint(tmp_path, capsys, datasets):
    assert "does not exist" in message(capsys, tmp_path / "run", "train.init_checkpoint=nowhere.pth")


def test_missing_weights_of_our_own_say_how_to_get_them(tmp_path, capsys, datasets, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path / "models"))
    text = message(capsys, tmp_path / "run", "train.init_checkpoint=lesa://imagenet_lesa_r50.pth")
    for words in ("models/imagenet_lesa_r50.pth", "lesa pretrain", "lesa convert"):
        assert words in text


def test_batch_that_cannot_be_split(tmp_path, capsys, datasets):
    text = message(capsys, tmp_path / "run", "train.accumulate=3")
    assert "use a multiple of 3" in text


def test_unknown_precision(tmp_path, capsys, datasets):
    text = message(capsys, tmp_path / "run", "train.amp.enabled=True", "train.amp.dtype=int8")
    assert "train.amp.dtype must be one of" in text


def test_the_script_exits_with_the_message_alone(tmp_path):
    result = train_net("--config-file", CONFIG, "train.max_itr=5", python=sys.executable)
    assert result.returncode == 2
    assert "did you mean 'train.max_iter'" in result.stderr
    assert "Traceback" not in result.stderr
