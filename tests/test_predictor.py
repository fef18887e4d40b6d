"""Predictor equals the model run by hand, for both kinds of config."""

import logging
import os
import random
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.data import DatasetMapper
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from torch import nn

from lesa_d2.data import SHAPE_CLASSES
from lesa_d2.engine import load_any_config, load_config
from lesa_d2.errors import CheckpointError, ConfigError, LesaError
from lesa_d2.predictor import Predictor

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SIDE = 64
YACS = [
    "MODEL.LESA.IMAGE_SIZE=(64,64)",
    "MODEL.LESA.NUM_HEADS=4",
    "MODEL.LESA.BLOCKS=[1,1,2,1]",
    "MODEL.RESNETS.STEM_OUT_CHANNELS=8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS=32",
    "MODEL.FPN.OUT_CHANNELS=32",
    "MODEL.ROI_BOX_HEAD.FC_DIM=32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM=32",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.015",  # of 80 classes
    "INPUT.MIN_SIZE_TEST=64",
    "INPUT.MAX_SIZE_TEST=96",
]


def image(height=48, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def lazy_config(folder):
    cfg = load_config(str(CONFIGS / "quickstart_lesa.py"))
    cfg.train.channels_last = False  # the model by hand has the plain layout, which rounds otherwise
    cfg.model.backbone.bottom_up.update(base_channels=8, num_heads=4, blocks=[1, 1, 2, 1], image_size=SIDE)
    cfg.dataloader.train.mapper.augmentations[0].shape = [SIDE, SIDE]
    cfg.dataloader.test.dataset.names.num_images = 4
    cfg.train.output_dir = str(folder / "run")
    return cfg


def yacs_config(*overrides):
    return load_any_config(str(CONFIGS / "yacs/mask_rcnn_lesa_r50.yaml"), [*YACS, *overrides])


def save_trained(model, file):
    """As if trained: scores are not all the same."""
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    torch.save({"model": model.state_dict()}, file)
    return str(file)


def save_start(model, file):
    """What training starts from: the backbone alone."""
    weights = model.state_dict()
    torch.save({n: v for n, v in weights.items() if n.startswith("backbone.bottom_up.")}, file)
    return str(file)


@pytest.fixture
def lazy(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    cfg = lazy_config(tmp_path)
    cfg.train.init_checkpoint = save_trained(instantiate(cfg.model), tmp_path / "lazy.pth")
    return cfg


@pytest.fixture
def yacs(tmp_path):
    cfg = yacs_config("MODEL.DEVICE=cpu")
    cfg.MODEL.WEIGHTS = save_trained(build_model(cfg), tmp_path / "yacs.pth")
    return cfg


@pytest.fixture(params=["lazy", "yacs"])
def cfg(request):
    return request.getfixturevalue(request.param)


def test_parts_of_a_model_that_do_not_fit_are_one_message(lazy):
    lazy.model.proposal_generator.pre_nms_topk = [10, None]
    with pytest.raises(ConfigError, match=r"predicting failed, .*TypeError: '<' not supported"):
        Predictor(lazy)(np.zeros((48, 64, 3), np.uint8))


def by_hand(cfg, file):
    """The config's own mapper and model, as evaluation runs them."""
    if isinstance(cfg, type(get_cfg())):
        model, path = build_model(cfg), cfg.MODEL.WEIGHTS
        mapper = DatasetMapper(cfg, is_train=False)
    else:
        model, path = instantiate(cfg.model), cfg.train.init_checkpoint
        mapper = instantiate(cfg.dataloader.test.mapper)
    model.load_state_dict(torch.load(path, weights_only=True)["model"])
    with torch.no_grad():
        height, width = cv2.imread(str(file)).shape[:2]
        return model.eval()([mapper({"file_name": str(file), "height": height, "width": width})])[0]


def assert_same(found, expected):
    found, expected = found["instances"], expected["instances"]
    assert len(expected) > 0
    assert found.image_size == expected.image_size
    assert set(found.get_fields()) == set(expected.get_fields())
    for name in ("scores", "pred_classes", "pred_masks"):
        assert torch.equal(found.get(name), expected.get(name)), name
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


@pytest.mark.parametrize("size", [(48, 80), (61, 37), (200, 128)])
def test_equals_the_model_run_by_hand_bit_for_bit(cfg, size, tmp_path):
    file = tmp_path / "image.png"
    cv2.imwrite(str(file), image(*size))
    output = Predictor(cfg)(image(*size))
    assert output["instances"].image_size == size
    assert_same(output, by_hand(cfg, file))


def test_several_equal_single_bit_for_bit(cfg):
    predictor = Predictor(cfg)
    images = [image(48, 80, 0), image(30, 90, 1), image(48, 80, 2)]
    outputs = predictor(images)
    assert len(outputs) == 3
    for output, single in zip(outputs, images, strict=True):
        assert_same(output, predictor(single))
    assert_same(predictor(np.stack([images[0], images[2]]))[1], predictor(images[2]))
    assert predictor([]) == []


def test_larger_batches_differ_by_rounding_alone(cfg):
    images = [image(48, 80, seed) for seed in range(3)] + [image(90, 40, 3)]
    singles, batched = Predictor(cfg)(images), Predictor(cfg, batch_size=2)(images)
    for single, other in zip(singles, batched, strict=True):
        single, other = single["instances"], other["instances"]
        assert single.image_size == other.image_size
        assert len(single) == len(other)
        torch.testing.assert_close(single.scores, other.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(single.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-2, rtol=0)


def test_batches_hold_images_of_one_size(lazy):
    predictor, seen = Predictor(lazy, batch_size=2), []
    predictor._augmentations.augs.clear()  # images keep their sizes
    predictor.model.register_forward_pre_hook(lambda _, args: seen.append([x["height"] for x in args[0]]))
    predictor([image(h, 64) for h in (32, 32, 32, 64, 32)])
    assert seen == [[32, 32], [32], [64], [32]]


def test_stream_does_not_wait_for_the_end(lazy):
    def endless():
        while True:
            yield image()

    assert len(next(Predictor(lazy).stream(endless()))["instances"]) > 0


def test_detectron2s_own_predictor_with_yacs(yacs):
    """It resizes in the same way, but converts to float before the network."""
    assert_same(Predictor(yacs)(image()), DefaultPredictor(yacs)(image()))


def test_mixed_precision(cfg):
    plain, mixed = Predictor(cfg)(image())["instances"], Predictor(cfg, amp="bfloat16")(image())["instances"]
    assert len(mixed) > 0
    assert not torch.equal(plain.scores[:5], mixed.scores[:5])
    torch.testing.assert_close(plain.scores[:5].float(), mixed.scores[:5].float(), atol=0.1, rtol=0.2)


def test_classes_and_unchanged_config(lazy, yacs):
    before = OmegaConf.to_container(lazy)
    predictor = Predictor(lazy)
    assert predictor.class_names == SHAPE_CLASSES
    assert OmegaConf.to_container(lazy) == before
    assert Predictor(yacs).class_names[:2] == ["person", "bicycle"]
    lazy.train.class_names = ["a", "b"]
    assert Predictor(lazy, weights=lazy.train.init_checkpoint).class_names == ["a", "b"]


def test_which_weights(lazy, tmp_path, monkeypatch):
    """A run's own: its last checkpoint. A config file: what init_checkpoint was set to, unless a start.

    What the file is follows from its content, not from its name.
    """
    monkeypatch.setenv("LESA_MODELS", str(tmp_path / "models"))
    given = lazy.train.init_checkpoint
    run = tmp_path / "run"
    run.mkdir()
    trained = save_trained(instantiate(lazy.model), run / "model_final.pth")
    (run / "last_checkpoint").write_text("model_final.pth")

    def chosen():
        return Predictor(lazy).model.state_dict()["roi_heads.box_predictor.cls_score.weight"]

    def inside(path):
        return torch.load(path, weights_only=True)["model"]["roi_heads.box_predictor.cls_score.weight"]

    assert torch.equal(chosen(), inside(given))
    for name in ("imagenet_x.pth", "start_x.pth"):
        shutil.copy(given, tmp_path / name)
        lazy.train.init_checkpoint = str(tmp_path / name)
        assert torch.equal(chosen(), inside(given))
    lazy.train.init_checkpoint = save_start(instantiate(lazy.model), tmp_path / "detector.pth")
    assert torch.equal(chosen(), inside(trained))
    lazy.train.init_checkpoint = "lesa://imagenet_lesa_r50.pth"  # not here
    assert torch.equal(chosen(), inside(trained))
    lazy.train.init_checkpoint = ""
    assert torch.equal(chosen(), inside(trained))
    lazy.train.update(init_checkpoint=given, class_names=["circle"])
    assert torch.equal(chosen(), inside(trained))


def test_a_start_of_training_is_no_detector(lazy, yacs, tmp_path, monkeypatch):
    """Not even where its run is elsewhere, or its shapes would fit."""
    monkeypatch.setenv("LESA_MODELS", str(tmp_path / "models"))
    lazy.train.class_names = ["circle"]
    with pytest.raises(
        CheckpointError, match=r"no trained weights: .*lazy\.pth is what training starts from"
    ):
        Predictor(lazy)
    yacs.MODEL.WEIGHTS = save_start(build_model(yacs), tmp_path / "detector.pth")
    with pytest.raises(CheckpointError, match="is what training starts from"):
        Predictor(yacs)
    yacs.MODEL.WEIGHTS = "lesa://start_lesa_r50.pth"
    with pytest.raises(CheckpointError, match=r"no weights 'start_lesa_r50\.pth'"):
        Predictor(yacs)


def test_no_data_set_is_made_for_the_names(lazy, tmp_path):
    assert Predictor(lazy, weights=tmp_path / "lazy.pth").class_names == SHAPE_CLASSES
    assert not (tmp_path / "datasets").exists()


def test_without_a_gpu(cfg, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if isinstance(cfg, CfgNode):
        cfg.MODEL.DEVICE = "cuda"
    else:
        cfg.train.device = "cuda"
    assert next(Predictor(cfg).model.parameters()).device.type == "cpu"
    assert "No GPU found" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="'cuda:1' was asked for, and PyTorch finds no GPU here; leave"):
        Predictor(cfg, device="cuda:1")


def test_without_weights_it_says_so(lazy, caplog):
    lazy.train.init_checkpoint = ""
    assert len(Predictor(lazy)(image())["instances"].scores) >= 0
    assert "the model is untrained" in caplog.text


def test_weights_of_another_model(yacs, lazy):
    yacs.MODEL.WEIGHTS = lazy.train.init_checkpoint
    with pytest.raises(CheckpointError, match="is not a checkpoint of this model"):
        Predictor(yacs)
    yacs.MODEL.WEIGHTS = "nowhere.pth"
    with pytest.raises(CheckpointError, match=r"nowhere.pth' does not exist"):
        Predictor(yacs)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (None, "a NoneType"),
        ("image.jpg", "a str"),
        (np.zeros((4, 4), np.uint8), r"an array \(4, 4\) of uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"an array \(4, 4, 4\) of uint8"),
        (np.zeros((4, 4, 3), np.float32), r"an array \(4, 4, 3\) of float32"),
        (np.zeros((0, 4, 3), np.uint8), r"an array \(0, 4, 3\) of uint8"),
        ([None], "a NoneType"),
        (torch.zeros(3, 4, 4), "a Tensor"),
    ],
)
def test_what_is_no_image(lazy, wrong, got):
    with pytest.raises(LesaError, match=rf"expected an image \(H, W, 3\) of uint8 in BGR order.*got {got}"):
        Predictor(lazy)(wrong)


def test_wrong_arguments(lazy):
    with pytest.raises(ConfigError, match="amp must be one of"):
        Predictor(lazy, amp="half")
    with pytest.raises(ConfigError, match="batch_size must be a whole number"):
        Predictor(lazy, batch_size=0)
    with pytest.raises(ConfigError, match="expected a LazyConfig or a yacs config, got str"):
        Predictor("configs/quickstart_lesa.py")
    with pytest.raises(ConfigError, match="got that of a classifier"):
        Predictor(load_config(str(CONFIGS / "quickstart_classifier.py")))
    with pytest.raises(ConfigError, match="device must be"):
        Predictor(lazy, device="gpu")
    with pytest.raises(ConfigError, match=r"does not define \['train'\]"):
        Predictor(OmegaConf.masked_copy(lazy, ["model", "dataloader"]))
    lazy.dataloader.test.mapper = {"_target_": "builtins.dict"}
    with pytest.raises(ConfigError, match=r"must be detectron2's DatasetMapper.*got dict"):
        Predictor(lazy)


def test_images_of_one_pixel(cfg):
    assert Predictor(cfg)(image(1, 1))["instances"].image_size == (1, 1)


def host_state():
    """What a program shares with every library in it."""
    names = ("", "detectron2", "fvcore", "lesa_d2")
    loggers = [(log.level, log.propagate, list(log.handlers)) for log in map(logging.getLogger, names)]
    numbers = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
    return numbers, loggers, dict(os.environ)


def test_the_program_around_it_stays_as_it_was(cfg):
    for generator in (torch.manual_seed, random.seed, np.random.seed):
        generator(7)
    before = host_state()
    Predictor(cfg)(image())
    for after, expected in zip(host_state(), before, strict=True):
        assert after == expected


def test_test_time_augmentation_of_the_config(lazy):
    plain = Predictor(lazy)(image())["instances"]
    lazy.train.tta.update(enabled=True, scales=[1.0, 1.5])
    augmented = Predictor(lazy)(image())["instances"]
    assert augmented.image_size == (48, 80)
    assert not torch.equal(plain.scores[:3], augmented.scores[:3])
