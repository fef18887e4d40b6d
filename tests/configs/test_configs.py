"""Every shipped config: loaded, built on the meta device, saved, loaded again."""

import math
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import OmegaConf

from lesa_d2.checkpoint import classifier_to_detector
from lesa_d2.config import add_lesa_config, load_config, save_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.py"))
YACS = sorted(CONFIGS.glob("yacs/*.yaml"))

DETECTORS = {
    "mask_rcnn_conv_r50": 44_396_336,
    "mask_rcnn_conv_wr50": 87_722_544,
    "mask_rcnn_lesa_r50": 42_372_304,
    "mask_rcnn_lesa_wr50": 79_496_304,
    "mask_rcnn_sa_r50": 36_651_216,
    "mask_rcnn_sa_wr50": 56_634_480,
    "mask_rcnn_dconv_r50_20e": 44_977_178,
    "mask_rcnn_dconv_wr50_20e": 88_883_994,
    "mask_rcnn_lesa_dconv_r50_20e": 42_953_146,  # as in the authors' release
    "mask_rcnn_lesa_dconv_wr50_20e": 80_657_754,
    "cascade_mask_rcnn_lesa_r50": 70_014_014,
    "cascade_mask_rcnn_lesa_wr50": 107_138_014,
    "htc_dconv_wr50_20e": 124_745_951,
    "htc_dconv_wr50_20e_1280": 124_745_951,
    "htc_lesa_dconv_wr50_20e": 116_519_711,
    "htc_lesa_dconv_wr50_20e_1280": 116_538_143,  # as in the authors' release
    "htc_lesa_dconv_wr50_20e_1280_fixed": 116_538_143,
}
OTHERS = {  # detectron2's other models on our backbone; not in the paper
    "faster_rcnn_lesa_r50": 39_729_024,
    "retinanet_lesa_r50": 35_944_660,
    "fcos_lesa_r50": 30_273_333,
    "panoptic_fpn_lesa_r50": 44_003_078,
    "semantic_fpn_lesa_r50": 26_459_158,
    "keypoint_rcnn_lesa_r50": 57_162_246,
}
CLASSIFIERS = {
    "imagenet_conv_r50": 25_557_032,
    "imagenet_conv_wr50": 68_883_240,
    "imagenet_sa_r50": 18_056_424,
    "imagenet_sa_wr50": 38_284_072,
    "imagenet_aa_r50": 25_152_596,
    "imagenet_static_lesa_r50": 20_429_544,
    "imagenet_lesa_r50": 23_777_512,
    "imagenet_lesa_wr50": 61_145_896,
}
QUICKSTART = {
    f"quickstart_{kind}" for kind in ("conv", "lesa", "self_attention", "cascade", "htc", "classifier")
}
PROMISED = {*DETECTORS, *CLASSIFIERS, *QUICKSTART}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_has_a_folder_of_its_own(file):
    """The quick start overwrites output/quickstart, which is therefore the folder of no config."""
    assert load_config(str(file)).train.output_dir == f"./output/{file.stem}"


def build(cfg):
    with torch.device("meta"):
        return instantiate(cfg.model)


def count(model):
    return sum(p.numel() for p in model.parameters())


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_all_promised_configs_are_here():
    assert {file.stem for file in FILES} >= PROMISED


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_loads_builds_and_survives_saving(file, tmp_path):
    cfg = load_config(str(file))
    model = build(cfg)
    saved = save_config(cfg, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert "_cfg_loader" not in saved.read_text()
    assert "!!python" not in saved.read_text()
    again = load_config(str(saved))
    assert OmegaConf.to_container(again, resolve=True)["train"] == OmegaConf.to_container(cfg.train)
    assert shapes(build(again)) == shapes(model)


@pytest.mark.parametrize(("name", "expected"), {**DETECTORS, **OTHERS, **CLASSIFIERS}.items())
def test_parameters(name, expected):
    assert count(build(load_config(str(CONFIGS / f"{name}.py")))) == expected


@pytest.mark.parametrize("name", DETECTORS)
def test_schedule_arithmetic(name):
    cfg = load_config(str(CONFIGS / f"{name}.py"))
    epochs, first, second = (20, 16, 19) if "_20e" in name else (12, 8, 11)
    batch = 4 if name.startswith("htc") else 8
    assert (cfg.dataloader.train.total_batch_size, cfg.train.reference_batch) == (batch, batch)
    assert cfg.train.max_iter == epochs * 117_266 // batch
    assert cfg.train.eval_period == cfg.train.checkpointer.period == math.ceil(117_266 / batch)
    assert cfg.optimizer.lr == {8: 0.01, 4: 0.005}[batch]
    multiplier = instantiate(cfg.lr_multiplier)
    near = {first - 0.1: 1, first + 0.1: 0.1, second - 0.1: 0.1, second + 0.1: 0.01}
    assert {epoch: multiplier(epoch / epochs) for epoch in near} == pytest.approx(near)
    assert multiplier(0) == pytest.approx(0.001)
    assert multiplier(500 / cfg.train.max_iter) == pytest.approx(1)
    assert multiplier(250 / cfg.train.max_iter) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("name", "rate"), [("mask_rcnn_lesa_r50", 0.01), ("htc_lesa_dconv_wr50_20e_1280", 0.005)]
)
def test_optimizer_decays_every_parameter(name, rate):
    cfg = load_config(str(CONFIGS / f"{name}.py"))
    model = build(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == count_of(trained)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (rate, 0.9, 1e-4)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_imagenet_recipe(name):
    """224 px, batch 128, SGD with Nesterov momentum, 5 epochs of warm-up and 90 of cosine from 0.05."""
    cfg = load_config(str(CONFIGS / f"{name}.py"))
    images, batch, epochs = 1_281_167, cfg.dataloader.train.total_batch_size, cfg.train.epochs
    assert (batch, epochs, cfg.train.max_iter) == (128, 95, round(95 * images / 128))
    multiplier = instantiate(cfg.lr_multiplier)
    at_epoch = {epoch: multiplier(epoch / epochs) for epoch in (0, 2.5, 5, 50, 72.5)}
    quarter = 0.5 * (1 + math.cos(0.75 * math.pi))  # three quarters of the way down
    assert at_epoch == pytest.approx({0: 0, 2.5: 0.5, 5: 1, 50: 0.5, 72.5: quarter}, abs=1e-6)
    model = build(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.05, 0.9, True)
        assert group["weight_decay"] == 8e-5
    training, test = cfg.dataloader.train.mapper.transform, cfg.dataloader.test.mapper.transform
    image = torch.zeros(3, 300, 500, dtype=torch.uint8)
    assert instantiate(training)(image).shape == instantiate(test)(image).shape == (3, 224, 224)


@pytest.mark.parametrize("detector", DETECTORS)
def test_detectors_start_from_the_classifier_of_their_name(detector):
    """Every parameter of the backbone is filled, but for position tables and the deformable offsets."""
    kind = next(kind for kind in ("lesa", "conv", "sa") if kind in detector)
    name = f"imagenet_{kind}_{'wr50' if 'wr50' in detector else 'r50'}"
    cfg = load_config(str(CONFIGS / f"{detector}.py"))
    assert cfg.train.init_checkpoint == f"lesa://{name}.pth"
    start = classifier_to_detector(build(load_config(str(CONFIGS / f"{name}.py"))).state_dict())
    wanted = {k: v for k, v in shapes(build(cfg)).items() if k.startswith("backbone.bottom_up.")}
    given = {k: tuple(v.shape) for k, v in start.weights.items()}
    missing = wanted.keys() - given.keys()
    assert all(".positions.rel_" in k or ".offset." in k for k in missing)
    assert given == {k: v for k, v in wanted.items() if k not in missing}


def released(name):
    """The RPN, predictors and mapper of a config."""
    cfg = load_config(str(CONFIGS / f"{name}.py"))
    model = build(cfg)
    return cfg, model.proposal_generator, model.roi_heads


@pytest.mark.parametrize("name", [name for name in DETECTORS if name.startswith("mask")])
def test_released_settings_of_mask_rcnn(name):
    cfg, rpn, heads = released(name)
    check_shared_settings(cfg, rpn, heads)
    assert (rpn.anchor_boundary_thresh, rpn.smooth_l1_beta) == (-1, 0)
    assert (rpn.post_nms_topk[True], rpn.post_nms_topk[False]) == (1000, 1000)
    assert heads.proposal_matcher.thresholds[1] == 0.5
    predictor = heads.box_predictor
    assert tuple(predictor.box2box_transform.weights) == (10, 10, 5, 5)
    assert (predictor.smooth_l1_beta, predictor.test_score_thresh) == (0, 0.05)
    assert predictor.bbox_pred.out_features == 4 * 80
    for loader in (cfg.dataloader.train, cfg.dataloader.test):
        assert instantiate(loader.mapper.augmentations[0]).shape == (1024, 1024)


@pytest.mark.parametrize("name", [name for name in DETECTORS if name.startswith("htc")])
def test_released_settings_of_htc(name):
    cfg, rpn, heads = released(name)
    check_shared_settings(cfg, rpn, heads)
    assert (rpn.anchor_boundary_thresh, rpn.smooth_l1_beta) == (0, 1 / 9)
    assert (rpn.post_nms_topk[True], rpn.post_nms_topk[False]) == (2000, 1000)
    assert [matcher.thresholds[1] for matcher in heads.proposal_matchers] == [0.5, 0.6, 0.7]
    weights = [predictor.box2box_transform.weights for predictor in heads.box_predictor]
    assert weights[0] == pytest.approx((10, 10, 5, 5))
    assert weights[1] == pytest.approx((20, 20, 10, 10))
    assert weights[2] == pytest.approx((1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067))
    for predictor, head, weight in zip(heads.box_predictor, heads.mask_head, (1, 0.5, 0.25), strict=True):
        assert (predictor.smooth_l1_beta, predictor.test_score_thresh) == (1, 0.001)
        assert predictor.loss_weight == {"loss_cls": weight, "loss_box_reg": weight}
        assert head.loss_weight == weight
        assert predictor.bbox_pred.out_features == 4
    assert (heads.semantic_head.num_classes, heads.semantic_head.loss_weight) == (183, 0.2)
    size = 1280 if "1280" in name else 1024
    assert instantiate(cfg.dataloader.test.mapper.augmentations[0]).shape == (size, size)
    resize = instantiate(cfg.dataloader.train.mapper.augmentations[0])
    if name.endswith("fixed"):
        assert resize.shape == (1280, 1280)
    else:
        assert resize.ranges == [[512, 1024], [1024, 2048]]


def check_shared_settings(cfg, rpn, heads):
    matcher = rpn.anchor_matcher
    assert (matcher.thresholds[1:3], matcher.labels) == ([0.3, 0.7], [0, -1, 1])
    assert (rpn.batch_size_per_image, rpn.positive_fraction, rpn.nms_thresh) == (256, 0.5, 0.7)
    assert rpn.pre_nms_topk[True] == 2000
    assert rpn.pre_nms_topk[False] == 1000
    sizes = cfg.model.proposal_generator.anchor_generator.sizes
    assert sizes == [[8 * stride] for stride in (4, 8, 16, 32, 64)]
    assert (heads.batch_size_per_image, heads.positive_fraction) == (512, 0.25)
    assert cfg.dataloader.train.mapper.instance_mask_format == "bitmask"


def count_of(parameters):
    return sum(p.numel() for p in parameters)


def yacs(file):
    cfg = get_cfg()
    add_lesa_config(cfg)
    cfg.merge_from_file(str(file))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


@pytest.mark.parametrize("file", YACS, ids=lambda file: file.stem)
def test_yacs_and_lazy_config_are_the_same_detector(file):
    cfg, lazy = yacs(file), load_config(str(CONFIGS / f"{file.stem}.py"))
    ours = instantiate(lazy.model)
    theirs = build_model(cfg)
    assert str(theirs) == str(ours)
    assert theirs.input_format == ours.input_format == "RGB"
    torch.testing.assert_close(theirs.pixel_mean, ours.pixel_mean)
    torch.testing.assert_close(theirs.pixel_std, ours.pixel_std)
    # detectron2's own checkpointer takes no classifier: its start is another file
    assert lazy.train.init_checkpoint.replace("imagenet", "start") == cfg.MODEL.WEIGHTS
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER
    assert lazy.dataloader.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert list(cfg.SOLVER.STEPS) == [round(epoch * 117_266 / 8) for epoch in (8, 11)]


def test_both_yacs_files_are_here():
    assert [file.stem for file in YACS] == ["mask_rcnn_lesa_r50", "mask_rcnn_lesa_wr50"]


def shrink(cfg):
    """The yacs file's detector at a size a test can train."""
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.LESA.update({"IMAGE_SIZE": [64, 64], "NUM_HEADS": 4, "BLOCKS": [1, 1, 2, 1]})
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, 2, (1,)
    return cfg


def test_detectron2s_own_trainer_and_predictor_work_with_yacs(tmp_path, monkeypatch):
    import cv2
    from detectron2.data import DatasetCatalog
    from detectron2.engine import DefaultPredictor, DefaultTrainer

    from lesa_d2.data import shapes_split

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    name = shapes_split("train", num_images=4, image_size=64, seed=0)
    cfg = shrink(yacs(YACS[0]))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "", str(tmp_path / "run")
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()

    cfg.MODEL.WEIGHTS = str(tmp_path / "run/model_final.pth")
    predictor = DefaultPredictor(cfg)
    image = cv2.imread(DatasetCatalog.get(name)[0]["file_name"])
    instances = predictor(image[:50])["instances"]  # 50×64: not the size of the tables
    assert instances.image_size == (50, 64)
    assert len(instances) > 0
    assert instances.pred_masks.shape[1:] == (50, 64)
    trained = trainer.model.state_dict()
    assert all(torch.equal(trained[name], value) for name, value in predictor.model.state_dict().items())
