"""Whole runs of cascade Mask R-CNN and Hybrid Task Cascade."""

import json

import numpy as np
import pytest
import torch
from coco_tree import write_coco_tree
from PIL import Image
from runs import ROOT, losses, tiny_options, train, train_net, weights

HTC = str(ROOT / "configs/quickstart_htc.py")
CASCADE = str(ROOT / "configs/quickstart_cascade.py")
COCO_HTC = ROOT / "configs/htc_lesa_dconv_wr50_20e_1280.py"
NO_SEMANTICS = ["model.roi_heads.semantic_head=null", "model.roi_heads.semantic_pooler=null"]


def run(config, output_dir, *extra, flags=()):
    """Train in this process; returns the exit status."""
    arguments = ["--config-file", config, *flags, *tiny_options(output_dir, *extra)]
    return train(arguments)


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {key for line in lines for key in line}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
        assert run(HTC, folder / "run", "train.checkpointer.period=2") == 0
        yield folder / "run"


def test_htc_trains_and_evaluates(finished):
    keys = logged(finished)
    assert {"loss_sem_seg", "loss_mask_stage2", "loss_cls_stage0", "loss_box_reg_stage1"} <= keys
    assert {
        "stage0/roi_head/num_fg_samples",
        "stage2/mask_rcnn/accuracy",
        "stage1/mask/roi_head/num_fg_samples",
    } <= keys
    assert {"bbox/AP", "segm/AP"} <= keys
    assert len(losses(finished)) == 4


def test_resumed_htc_equals_the_uninterrupted_one_exactly(finished, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model_0000001.pth").write_bytes((finished / "model_0000001.pth").read_bytes())
    (tmp_path / "run/last_checkpoint").write_text("model_0000001.pth")
    assert run(HTC, tmp_path / "run", flags=["--resume"]) == 0
    ours, theirs = weights(tmp_path / "run"), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_evaluation_with_test_time_augmentation(finished, capfd):
    assert run(HTC, finished, "train.tta.enabled=True", "train.tta.scales=[1]", flags=["--eval-only"]) == 0
    log = (finished / "log.txt").read_text()
    assert "Evaluation results for segm" in log
    assert "at 1 times the size, flipped too, merged" in log
    wrong = run(HTC, finished, "train.tta.scales=[0]", flags=["--eval-only"])
    assert wrong == 2
    assert "train.tta.scales must be a list of positive numbers" in capfd.readouterr().err


def test_a_test_loader_unfit_for_augmentation_is_found_before_training(datasets, tmp_path, capfd):
    options = ["train.tta.enabled=True", "dataloader.test.mapper.augmentations=[]"]
    assert run(HTC, tmp_path, *options) == 2
    assert "needs exactly one augmentation" in capfd.readouterr().err
    assert not (tmp_path / "metrics.json").exists()


def test_cascade_trains_with_checkpointed_stages(datasets, tmp_path):
    options = ["model.backbone.bottom_up.checkpoint_stages=[res4,res5]", "train.max_iter=1"]
    assert run(CASCADE, tmp_path, *options) == 0
    assert {"loss_cls_stage2", "loss_mask"} <= logged(tmp_path)


@pytest.mark.parametrize("part", ["mask_heads", "semantic_head"])
def test_half_a_branch_is_one_message(part, datasets, tmp_path, capfd):
    assert run(HTC, tmp_path, f"model.roi_heads.{part}=null") == 2
    error = capfd.readouterr().err
    assert f"belong together: give all or none, got none for ['{part}']" in error
    assert "Traceback" not in error


def test_htc_without_its_semantic_branch(datasets, tmp_path):
    assert run(HTC, tmp_path, *NO_SEMANTICS, "train.max_iter=1") == 0
    assert "loss_sem_seg" not in logged(tmp_path)


# -------------------------------------------------------------------------------- data of one's own


def write_folder(folder, masks=True):
    """One JSON with images/: objects, a crowd, an object of one pixel, an image without objects."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 255, (48, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 56, "height": 48})
    boxes = [(0, 4, 5, 20, 10), (1, 1, 1, 30, 30), (2, 30, 20, 1, 1), (3, 8, 8, 16, 16), (4, 0, 0, 56, 48)]
    for index, (image, x, y, width, height) in enumerate(boxes, start=1):
        polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
        annotation = {"id": index, "image_id": image, "category_id": 1 + index % 2, "iscrowd": 0}
        annotation |= {"bbox": [x, y, width, height], "area": width * height}
        annotations.append(annotation | ({"segmentation": [polygon]} if masks else {}))
    if masks:
        crowd = {"size": [48, 56], "counts": [100, 48 * 56 - 100]}
        annotations.append({**annotations[0], "id": 9, "iscrowd": 1, "segmentation": crowd})
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    data = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("config", [HTC, CASCADE])
def test_ones_own_folder(config, masks, tmp_path, capfd):
    flags = ["--dataset", str(write_folder(tmp_path / "data", masks))]
    options = [option for option in tiny_options(tmp_path / "run") if ".names." not in option]
    assert train(["--config-file", config, *flags, *options, "train.max_iter=2"]) == 0
    out = capfd.readouterr().out
    assert ("without its semantic branch" in out) == (config == HTC)
    assert ("boxes only" in out) == (not masks)
    assert any("mask" in key for key in logged(tmp_path / "run")) == masks
    assert "loss_sem_seg" not in logged(tmp_path / "run")


# ----------------------------------------------------------------------------- COCO with stuff maps

SMALL_COCO = [
    *(f"model.roi_heads.box_heads.{stage}.fc_dims=[16,16]" for stage in range(3)),
    *(f"model.roi_heads.box_predictors.{stage}.input_shape.channels=16" for stage in range(3)),
    *(f"model.roi_heads.mask_heads.{stage}.conv_dims=[16,16]" for stage in range(3)),
    "model.roi_heads.batch_size_per_image=16",
    "model.roi_heads.semantic_head.num_convs=1",
    "model.proposal_generator.post_nms_topk=[30,10]",
    "model.backbone.bottom_up.base_channels=8",
    "model.backbone.bottom_up.blocks=[1,1,2,1]",
    "model.backbone.bottom_up.image_size=64",
    "model.backbone.bottom_up.norm=BN",
    "model.backbone.bottom_up.freeze_at=0",
    "dataloader.train.mapper.augmentations.0.ranges=[[32,64],[64,96]]",
    "dataloader.test.mapper.augmentations.0.shape=[64,64]",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=2",
    "dataloader.test.num_workers=0",
    "train.max_iter=2",
    "train.eval_period=0",
]


@pytest.fixture
def coco(datasets):
    """A folder like COCO's: train2017 with stuff maps, val2017, and test-dev without annotations."""
    return write_coco_tree(datasets)


def coco_run(output_dir, *extra, flags=()):
    return train_net("--config-file", COCO_HTC, *flags, *SMALL_COCO, f"train.output_dir={output_dir}", *extra)


def test_coco_config_trains_at_many_sizes_and_writes_uploads(coco, tmp_path):
    """The shipped config on a small COCO, then test-dev with the trained weights."""
    done = coco_run(tmp_path, "train.init_checkpoint=''")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loss_sem_seg" in logged(tmp_path)
    for folder in ("train2017", "stuffthingmaps/train2017"):  # evaluation needs no training data
        (coco / folder).rename(coco / folder.replace("train", "moved"))
    done = coco_run(
        tmp_path,
        "dataloader.test.dataset.names=coco_2017_test-dev",
        "train.tta.enabled=True",
        "train.tta.scales=[0.5]",
        flags=["--eval-only"],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, key in (("bbox", "bbox"), ("segm", "segmentation")):
        results = json.loads((tmp_path / f"detections_test-dev2017_{kind}_results.json").read_text())
        assert results
        assert all(set(r) == {"image_id", "category_id", key, "score"} for r in results)


def test_missing_and_wrong_stuff_maps_are_one_message(coco, tmp_path):
    maps = coco / "stuffthingmaps/train2017"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(maps / f"{1:012d}.png")
    wrong = coco_run(tmp_path, "train.init_checkpoint=''")
    assert wrong.returncode == 2
    assert f"{1:012d}.png: expected a PNG of 8-bit grey values, 56×48 pixels" in wrong.stderr
    (maps / f"{1:012d}.png").unlink()
    missing = coco_run(tmp_path, "train.init_checkpoint=''")
    assert missing.returncode == 2
    assert "1 of 3 images of 'coco_2017_train' have no stuff map" in missing.stderr
    assert f"stuffthingmaps/train2017/{1:012d}.png" in missing.stderr
    maps.rename(maps.with_name("elsewhere"))
    gone = coco_run(tmp_path, "train.init_checkpoint=''")
    assert "3 of 3 images of 'coco_2017_train' have no stuff map" in gone.stderr
    early = coco_run(tmp_path, "train.init_checkpoint=''", "dataloader.train.dataset.names=coco_2017_train")
    assert "data set 'coco_2017_train' has no stuff maps (no sem_seg_root)" in early.stderr
    without = [*NO_SEMANTICS, "dataloader.train.dataset.names=coco_2017_train", "train.max_iter=1"]
    assert all(words in missing.stderr for words in without[:3])  # the way out that the message names
    done = coco_run(tmp_path, "train.init_checkpoint=''", *without)
    assert done.returncode == 0, done.stderr[-3000:]
    for done in (wrong, missing, gone, early):
        assert done.stderr.count("error: ") == 1
        assert "Traceback" not in done.stderr
