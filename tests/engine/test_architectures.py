"""Any LazyConfig of detectron2 trains, with our backbone or without: steps, evaluation, for some the whole chain."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from generated_data import SIDE, shapes
from runs import ROOT, losses, train, weights

from lesa_d2.cli import main
from lesa_d2.config import load_config, run_config
from lesa_d2.predictor import Predictor

SHAPES = [shapes("train"), shapes("val", 3)]
RUN = [
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.max_iter=4",
    "train.log_period=1",
    "train.eval_period=0",
    "train.checkpointer.period=2",
    "train.init_checkpoint=''",
]
RESIZED = [f"dataloader.train.mapper.augmentations.0.shape=[{SIDE},{SIDE}]"]
BACKBONE = [
    f"model.backbone.bottom_up.{key}"
    for key in (
        "base_channels=8",
        "stem_channels=8",
        "blocks=[1,1,2,1]",
        "num_heads=4",
        f"image_size={SIDE}",
        "norm=BN",
        "freeze_at=0",
    )
]
OURS = [*RUN, *RESIZED, *BACKBONE]
ROI = ["model.roi_heads.batch_size_per_image=16", "model.proposal_generator.post_nms_topk=[30,20]"]
PANOPTIC = [
    "dataloader.train.dataset.names={_target_:generated_data.panoptic_split,split:train}",
    "dataloader.test.dataset.names={_target_:generated_data.panoptic_split,split:val}",
    "model.sem_seg_head.num_classes=5",
]
KEYPOINTS = [
    "dataloader.train.dataset.names={_target_:generated_data.keypoint_split,split:train}",
    "dataloader.test.dataset.names={_target_:generated_data.keypoint_split,split:val}",
    "model.roi_heads.keypoint_head.conv_dims=[16,16]",
]
RETINANET = [
    *SHAPES,
    *OURS,
    "model.backbone.top_block.in_channels=256",
    "model.num_classes=4",
    "model.test_score_thresh=0.0",
]
PLAIN = [
    *SHAPES,
    *RUN,
    *ROI,
    f"dataloader.test.mapper.augmentations.0.short_edge_length={SIDE}",
    "model.roi_heads.num_classes=4",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
    "dataloader.train.mapper.instance_mask_format=bitmask",  # shapes have masks of pixels
]
VITDET = [
    *PLAIN,
    f"dataloader.train.mapper.augmentations.0.short_edge_length=[{SIDE}]",
    f"model.backbone.net.img_size={SIDE}",
    f"model.backbone.square_pad={SIDE}",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=2",
    "model.backbone.net.num_heads=2",
    "model.backbone.net.window_block_indexes=[0]",
]
LSJ = [
    *PLAIN,
    "optimizer.lr=0.001",  # at 0.1 two steps can leave a model that detects nothing
    f"dataloader.train.mapper.augmentations.0.target_height={SIDE}",
    f"dataloader.train.mapper.augmentations.0.target_width={SIDE}",
    f"dataloader.train.mapper.augmentations.1.crop_size=[{SIDE},{SIDE}]",
]
OWN_LOADER_FILE = str(ROOT / "tests/engine/own_loader.py")
VITDET_FILE = str(ROOT / "tests/engine/plain_vitdet.py")


@pytest.fixture(autouse=True, scope="module")
def _trust():
    """The overrides name data sets of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LESA_TRUST", "generated_data.panoptic_split,generated_data.keypoint_split")
        yield


def run(config, folder, *options, flags=()):
    return train(["--config-file", config, *flags, *options, f"train.output_dir={folder}"])


def evaluated(folder):
    """The kinds of results of the last line of metrics.json."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {key.split("/")[0] for line in lines for key in line if "/" in key} & {
        "bbox",
        "segm",
        "keypoints",
        "sem_seg",
    }


@pytest.mark.parametrize(
    ("config", "options", "kinds"),
    [
        ("faster_rcnn_lesa_r50", [*SHAPES, *OURS, *ROI, "model.roi_heads.num_classes=4"], {"bbox"}),
        (
            "fcos_lesa_r50",
            [*SHAPES, *OURS, "model.num_classes=4", "model.test_score_thresh=0.0"],
            {"bbox"},
        ),
        ("semantic_fpn_lesa_r50", [*OURS, *PANOPTIC], {"sem_seg"}),
        (
            "keypoint_rcnn_lesa_r50",
            [*OURS, *ROI, *KEYPOINTS, "model.roi_heads.box_predictor.test_score_thresh=0.0"],
            {"bbox", "keypoints"},
        ),
        ("new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ", LSJ, {"bbox", "segm"}),
    ],
)
def test_steps_and_evaluation(config, options, kinds, tmp_path, datasets):
    assert run(config, tmp_path, *options, "train.max_iter=2") == 0
    assert list(losses(tmp_path)) == [0, 1]
    assert evaluated(tmp_path) == kinds


CHAINS = {
    "retinanet": ("retinanet_lesa_r50", RETINANET),
    "panoptic": (
        "panoptic_fpn_lesa_r50",
        [
            *OURS,
            *ROI,
            *PANOPTIC,
            "model.roi_heads.num_classes=4",
            "model.roi_heads.box_predictor.test_score_thresh=0.0",
        ],
    ),
    "vitdet": (VITDET_FILE, VITDET),
}


@pytest.fixture(scope="module", params=list(CHAINS))
def chain(request, tmp_path_factory):
    """Name, config, options and folder of a finished run."""
    folder = tmp_path_factory.mktemp(request.param)
    config, options = CHAINS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
        assert run(config, folder / "run", *options) == 0
        yield request.param, config, options, folder / "run"


def test_a_resumed_run_is_the_uninterrupted_one(chain, tmp_path):
    name, config, options, finished = chain
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "model_0000001.pth", tmp_path / "run")
    (tmp_path / "run/last_checkpoint").write_text("model_0000001.pth")
    assert run(config, tmp_path / "run", *options, flags=["--resume"]) == 0
    assert list(losses(tmp_path / "run")) == [2, 3]
    ours, theirs = weights(tmp_path / "run"), weights(finished)
    is_exact = all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert is_exact == (
        name != "vitdet"
    )  # detectron2's own loader starts its order of images anew, and it is said
    said = "This data loader cannot continue where it was" in (tmp_path / "run/log.txt").read_text()
    assert said == (name == "vitdet")


def test_the_saved_config_evaluates_and_predicts(chain, tmp_path):
    name, _, _, finished = chain
    folder = shutil.copytree(finished, tmp_path / "run")
    saved = run_config(folder)
    assert saved.name == "config.yaml"
    assert train(["--config-file", saved, "--eval-only", f"train.output_dir={folder}"]) == 0
    cfg = load_config(str(saved), [f"train.output_dir={folder}"])
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    output = Predictor(cfg)(image)
    assert set(output) == {"panoptic": {"instances", "sem_seg", "panoptic_seg"}}.get(name, {"instances"})
    assert output["instances"].image_size == (48, 80)


def test_the_demo_draws_it(chain, tmp_path):
    _, _, _, finished = chain
    cv2.imwrite(str(tmp_path / "a.jpg"), np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    saved = ["--config-file", str(run_config(finished)), "--confidence-threshold", "0.01"]
    files = ["--input", str(tmp_path / "a.jpg"), "--output", str(tmp_path / "drawn")]
    assert main(["demo", *saved, *files]) == 0
    assert cv2.imread(str(tmp_path / "drawn/a.jpg")).std() > 10


def test_export_of_the_backbone_where_there_is_an_fpn(chain, tmp_path, capsys):
    name, _, _, finished = chain
    status = main(
        ["export", "--config-file", str(run_config(finished)), "--output", str(tmp_path), "--format", "torch",
         "--image-size", "160", "160"]
    )  # fmt: skip
    if name == "vitdet":
        assert status == 2
        assert (
            "backbone ends in an FPN, got GeneralizedRCNN with SimpleFeaturePyramid"
            in capsys.readouterr().err
        )
    else:
        assert status == 0
        assert (tmp_path / "backbone.pt2").exists()


def test_a_config_without_a_yaml_form_resumes_evaluates_and_predicts(tmp_path, datasets):
    """detectron2's new baselines hold a lambda: their source is the record of the run."""
    config = "new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ"
    assert run(config, tmp_path / "run", *LSJ, "train.max_iter=1") == 0
    saved = run_config(tmp_path / "run")
    assert saved.name == "config.py"
    assert not list((tmp_path / "run").rglob("*.pkl"))
    assert run(str(saved), tmp_path / "run", "train.max_iter=2", flags=["--resume"]) == 0
    assert list(losses(tmp_path / "run")) == [0, 1]
    assert run(str(saved), tmp_path / "run", flags=["--eval-only"]) == 0
    cfg = load_config(str(saved))
    assert (cfg.train.max_iter, cfg.model.roi_heads.num_classes) == (2, 4)
    predictor = Predictor(cfg)
    assert predictor.weights.endswith("model_final.pth")
    assert predictor.class_names == ["circle", "triangle", "square", "star"]


def test_half_precision_of_a_plain_config_falls_back_on_the_cpu_and_says_so_once(tmp_path, datasets, capsys):
    assert run("new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ", tmp_path, *LSJ, "train.max_iter=1") == 0
    printed = capsys.readouterr().out
    assert printed.count("Mixed precision in float16 needs a GPU") == 1
    assert printed.count("No GPU found") == 1


def test_micro_batches_need_a_loader_that_gives_them(tmp_path, datasets, capsys):
    assert run(VITDET_FILE, tmp_path, *VITDET, "train.accumulate=2") == 2
    assert "needs a data loader that gives micro-batches" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "needs"),
    [("semantic_fpn_lesa_r50", "a label for every pixel"), ("keypoint_rcnn_lesa_r50", "keypoints")],
)
def test_a_folder_of_boxes_and_masks_is_refused_where_it_does_not_apply(config, needs, tmp_path, capsys):
    assert run(config, tmp_path / "run", flags=["--dataset", str(tmp_path)]) == 2
    assert needs in capsys.readouterr().err


def test_a_loader_of_ones_own_and_no_evaluator(tmp_path, capsys):
    """A start from a trained detector on data without names; then its own last checkpoint is the trained one."""
    kept = [o for o in [*RUN, *BACKBONE, *ROI] if not o.startswith(("dataloader.train.", "train.init"))]
    options = [*kept, "model.roi_heads.num_classes=4", shapes("val", 3), "train.max_iter=2"]
    assert run(OWN_LOADER_FILE, tmp_path / "first", *options, "train.init_checkpoint=''") == 0
    assert "Not evaluated: the config has no dataloader.evaluator" in (tmp_path / "first/log.txt").read_text()
    start = f"train.init_checkpoint={tmp_path / 'first/model_final.pth'}"
    assert run(OWN_LOADER_FILE, tmp_path / "second", *options, start) == 0
    saved = load_config(str(run_config(tmp_path / "second")))
    assert Predictor(saved).weights == str(tmp_path / "second/model_final.pth")
    assert run(OWN_LOADER_FILE, tmp_path / "third", *options, flags=["--dataset", str(tmp_path)]) == 2
    assert "which this config lacks: its loader is its own" in capsys.readouterr().err
