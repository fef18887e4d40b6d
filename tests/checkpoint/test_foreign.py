"""Weights of other code bases: under our names, converted where that is exact, and refused where it is not."""

import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from lesa_d2 import model_zoo
from lesa_d2.checkpoint import (
    Origin,
    convert_file,
    kind_of,
    load_evaluated_weights,
    load_weights,
    origin_of,
    read_checkpoint,
    to_official,
    to_our_names,
)
from lesa_d2.checkpoint.names import COUNTER, TORCHVISION_DETECTOR_NAMES
from lesa_d2.checkpoint.safetensors import read_safetensors, write_safetensors
from lesa_d2.config import load_any_config
from lesa_d2.errors import CheckpointError
from lesa_d2.modeling import build_lesa_resnet

SMALL = dict(base_channels=8, stem_channels=8, blocks=[1, 1, 2, 1], num_heads=2, image_size=64)
STAGES = ["res2", "res3", "res4", "res5"]
MSRA = Origin(is_bgr=True, stride_in_1x1=True, mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0))
BGR = Origin(is_bgr=True, stride_in_1x1=False, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395))


@pytest.fixture(scope="module")
def ours():
    """A small convolutional classifier of ours, bare names, no two values equal."""
    model = build_lesa_resnet("conv", num_classes=3, **SMALL)
    return {name: torch.rand(value.shape) for name, value in model.state_dict().items()}


def detector(operator="conv"):
    fpn = FPN(build_lesa_resnet(operator, **SMALL), STAGES, 8)
    return nn.ModuleDict({"backbone": fpn, "head": nn.Linear(2, 2)})


def arrays(state_dict):
    return {name: value.numpy() for name, value in state_dict.items()}


def of_detectron2(ours):
    """As detectron2's tools/convert-torchvision-to-d2.py writes it: no counters, ``stem.fc``."""
    return {n.replace("linear.", "stem.fc."): v for n, v in ours.items() if not n.endswith(COUNTER)}


def of_caffe2(ours, statistics):
    """The names of MSRA's files, as Detectron and as detectron2's model zoo have them."""
    leaves = {
        "weight": "bn_gamma",
        "bias": "bn_beta",
        "running_mean": "bn_running_mean",
        "running_var": "bn_running_var",
    }
    if not statistics:
        leaves = {"weight": "bn_s", "bias": "bn_b"}
    branches = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    renamed = {}
    for name, value in ours.items():
        *module, leaf = name.split(".")
        if name.startswith("linear."):
            renamed[f"fc1000_{leaf[0]}"] = value
        elif "norm" not in module:
            renamed[
                "conv1_w" if module[0] == "stem" else f"{'_'.join(module[:2])}_{branches[module[2]]}_w"
            ] = value
        elif leaf in leaves:
            start = "res_conv1" if module[0] == "stem" else f"{'_'.join(module[:2])}_{branches[module[2]]}"
            renamed[f"{start}_{leaves[leaf]}"] = value
    return renamed


def save_pickle(tmp_path, content, name="R-50.pkl"):
    (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    return tmp_path / name


def save_torch(tmp_path, content, name="weights.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def save_safetensors(tmp_path, content):
    write_safetensors(content, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def of_mmpretrain(ours):
    official = to_official(ours)
    return {("head." if name.startswith("fc.") else "backbone.") + name: v for name, v in official.items()}


FILES = {
    "torchvision": lambda folder, ours: save_torch(folder, to_official(ours)),
    "timm": lambda folder, ours: save_safetensors(folder, to_official(ours)),
    "mmpretrain": lambda folder, ours: save_torch(
        folder, {"meta": {"cfg": "model = dict(style='pytorch')"}, "state_dict": of_mmpretrain(ours)}
    ),
    "detectron2": lambda folder, ours: save_pickle(
        folder,
        {"model": arrays(of_detectron2(ours)), "__author__": "torchvision", "matching_heuristics": True},
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_detector_starts_from_files_as_they_are(ours, tmp_path, kind):
    model = detector()
    report = load_weights(model, FILES[kind](tmp_path, ours), start=True)
    assert report.share("backbone.bottom_up.") == 1 or all(
        name.endswith(COUNTER) for name in report.missing if "bottom_up" in name
    )
    loaded = model.state_dict()
    for name, value in ours.items():
        if not name.startswith("linear.") and not (kind == "detectron2" and name.endswith(COUNTER)):
            assert torch.equal(
                loaded[f"backbone.bottom_up.{name}"].float(),
                value.to(loaded[f"backbone.bottom_up.{name}"].dtype).float(),
            ), name
    assert report.unexpected == []
    source = report.renamed["backbone.bottom_up.res4.1.conv2.weight"]
    assert source.endswith(("layer3.1.conv2.weight", "res4.1.conv2.weight"))
    assert f"loaded, from {source}" in report.table()
    assert f"{len(report.renamed)} tensors renamed" in report.summary()


@pytest.mark.parametrize("kind", FILES)
def test_files_convert(ours, tmp_path, kind):
    conversion = convert_file(
        kind if kind != "mmpretrain" else "mmdetection", FILES[kind](tmp_path, ours), tmp_path / "x.pth"
    )
    expected = {f"backbone.{name}": value for name, value in ours.items()}
    written = torch.load(tmp_path / "x.pth")["model"]
    assert kind_of(written) == "classifier"
    for name, value in written.items():
        assert kind == "detectron2" or torch.equal(value, expected[name]) or name.endswith(COUNTER)
    assert {name for name in expected if not name.endswith(COUNTER)} <= written.keys()
    assert conversion.network.startswith("ResNet-17, blocks 1-1-2-1")


@pytest.mark.parametrize("statistics", [True, False])
def test_msras_resnets_are_refused(ours, tmp_path, statistics):
    file = save_pickle(tmp_path, arrays(of_caffe2(ours, statistics)))
    assert kind_of(of_caffe2(ours, statistics)) == "caffe2-imagenet"
    with pytest.raises(
        CheckpointError, match=r"R-50\.pkl: .*stride in the first 1×1 .*torchvision://resnet50"
    ):
        load_weights(detector(), file, start=True)
    with pytest.raises(CheckpointError, match=r"R-50\.pkl: .*stride in the first 1×1"):
        convert_file("detectron2", file, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="stride in the first 1×1"):
        to_our_names(of_caffe2(ours, statistics), origin=MSRA)


def test_norms_without_statistics_are_msras_under_any_names(ours):
    weights = {name: value for name, value in of_detectron2(ours).items() if ".running_" not in name}
    with pytest.raises(CheckpointError, match="stride in the first 1×1"):
        to_our_names(weights)
    to_our_names(weights, author="torchvision")


def test_other_caffe2_resnets_need_their_config(ours):
    """FAIR's ResNeXts have their stride in the 3×3, and images in BGR."""
    weights = of_caffe2(ours, statistics=False)
    weights["res2_0_branch2b_w"] = weights["res2_0_branch2b_w"][:, :2]
    with pytest.raises(CheckpointError, match=r"lesa convert --from detectron2 --config-file CONFIG"):
        to_our_names(weights)
    converted, notes = to_our_names(weights, origin=BGR)
    norm = "backbone.res3.0.conv3.norm."
    assert torch.equal(converted[norm + "weight"], ours["res3.0.conv3.norm.weight"])
    ours_is = F.batch_norm(
        x := torch.rand(2, 64, 1, 1), converted[norm + "running_mean"], converted[norm + "running_var"],
        converted[norm + "weight"], converted[norm + "bias"],
    )  # fmt: skip
    affine = x * converted[norm + "weight"].view(-1, 1, 1) + converted[norm + "bias"].view(-1, 1, 1)
    torch.testing.assert_close(ours_is, affine)
    assert notes.converted[norm + "running_var"] == "of a norm without statistics"
    assert notes.renamed["backbone.stem.conv1.weight"] == "conv1_w"


@pytest.mark.parametrize("std", [(57.375, 57.12, 58.395), (1.0, 1.0, 1.0)])
def test_colours_are_converted_exactly(ours, std):
    weights = {f"backbone.bottom_up.{name}": value for name, value in ours.items() if "linear" not in name}
    weights["head.weight"] = torch.ones(2, 2)
    origin = Origin(is_bgr=True, stride_in_1x1=False, mean=BGR.mean, std=std)
    converted, notes = to_our_names(weights, author="Detectron2 Model Zoo", origin=origin)
    name = "backbone.bottom_up.stem.conv1.weight"
    assert "RGB" in notes.converted[name]
    image = 255 * torch.rand(1, 3, 32, 32)  # RGB

    def stem(image, mean, std, weight):
        normalised = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        return F.conv2d(normalised, weight, stride=2, padding=3)

    theirs = stem(image.flip(1), origin.mean, origin.std, weights[name])
    rgb = stem(image, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), converted[name])
    torch.testing.assert_close(rgb, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    assert all(torch.equal(converted[n], v) for n, v in weights.items() if n != name)


def test_other_means_are_refused(ours):
    weights = {f"backbone.bottom_up.{name}": value for name, value in ours.items()}
    with pytest.raises(CheckpointError, match=r"have the mean \[127\.5"):
        to_our_names(weights, origin=Origin(False, False, mean=(127.5, 127.5, 127.5)))


def test_detectors_of_the_zoo_need_their_config(ours, tmp_path):
    weights = {f"backbone.bottom_up.{name}": value for name, value in ours.items() if "linear" not in name}
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.ones(81)
    file = save_pickle(
        tmp_path, {"model": arrays(weights), "__author__": "Detectron2 Model Zoo"}, "model_final_f10217.pkl"
    )
    for start in (True, False):
        with pytest.raises(
            CheckpointError, match=r"model_final_f10217\.pkl: .*--config-file CONFIG SRC DST\.pth"
        ):
            load_weights(detector(), file, start=start)
    with pytest.raises(CheckpointError, match="RGB or BGR"):
        load_evaluated_weights(detector(), file)
    zoo = origin_of(load_any_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"))
    assert zoo == MSRA
    with pytest.raises(CheckpointError, match="stride in the first 1×1"):
        convert_file("detectron2", file, tmp_path / "x.pth", origin=zoo)
    convert_file("detectron2", file, tmp_path / "x.pth", origin=BGR)
    model = detector()
    report = load_weights(model, tmp_path / "x.pth", start=True)
    assert report.share("backbone.bottom_up.") == 1
    flipped = model.state_dict()["backbone.bottom_up.stem.conv1.weight"].flip(1)
    assert flipped.sub(ours["stem.conv1.weight"]).abs().max() < 0.03  # the deviations are almost the same
    torch.save({"model": weights}, tmp_path / "own.pth")  # a run of ours, or of detectron2's, says nothing
    load_weights(detector(), tmp_path / "own.pth", start=True)
    torch.save({"model": {**weights, "pixel_mean": torch.tensor(BGR.mean)}}, tmp_path / "own.pth")
    with pytest.raises(CheckpointError, match="RGB or BGR"):
        load_weights(detector(), tmp_path / "own.pth", start=True)


def test_origins_of_configs_of_both_kinds():
    cfg = get_cfg()
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "RGB", [1, 2, 3], [4, 5, 6]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    assert origin_of(cfg) == Origin(False, False, (1, 2, 3), (4, 5, 6))
    lazy = origin_of(load_any_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"))
    assert lazy == MSRA
    assert origin_of(load_any_config("mask_rcnn_conv_r50")) == Origin(False, False)


def test_mmcvs_caffe_style_is_refused(ours, tmp_path):
    for key, text in (("cfg", "backbone=dict(style='caffe')"), ("config", '{"style": "caffe"}')):
        file = save_torch(tmp_path, {"meta": {key: text}, "state_dict": of_mmpretrain(ours)})
        with pytest.raises(CheckpointError, match="stride in the first 1×1"):
            load_weights(detector(), file, start=True)


# ----------------------------------------------------------------------------------- whole detectors


def numbered(state_dict):
    """Row i of every tensor is i."""

    def fill(shape):
        return torch.arange(float(shape[0])).view(-1, *[1] * (len(shape) - 1)).expand(shape)

    return {name: fill(value.shape) for name, value in state_dict.items() if value.dim()}


@pytest.fixture(scope="module")
def mask_rcnn():
    return model_zoo.get("mask_rcnn_conv_r50", device="meta").state_dict()


@pytest.mark.parametrize("are_old", [False, True])
def test_torchvisions_mask_rcnn(mask_rcnn, are_old):
    with torch.device("meta"):
        theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights_backbone=None).state_dict()
    theirs = numbered(theirs)
    if are_old:  # the names in the file that torchvision publishes
        theirs = {_old_name(name): value for name, value in theirs.items()}
    converted, notes = to_our_names(theirs)
    assert {name for name in mask_rcnn if not name.endswith(COUNTER)} <= converted.keys()
    assert all(mask_rcnn[name].shape == value.shape for name, value in converted.items() if name in mask_rcnn)
    assert set(notes.renamed.values()) == theirs.keys()
    scores = converted["roi_heads.box_predictor.cls_score.bias"].tolist()
    assert len(scores) == 81
    assert scores[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]  # there is no 12 in COCO
    assert scores[-2:] == [90, 0]
    boxes = converted["roi_heads.box_predictor.bbox_pred.bias"].view(-1, 4)
    assert boxes[[0, 11, 79]].tolist() == [[4 * i + j for j in range(4)] for i in (1, 13, 90)]
    masks = converted["roi_heads.mask_head.predictor.bias"].tolist()
    assert masks == scores[:-1]


def _old_name(name):
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    for i in range(4):
        name = name.replace(f"roi_heads.mask_head.{i}.0.", f"roi_heads.mask_head.mask_fcn{i + 1}.")
        name = name.replace(f"inner_blocks.{i}.0.", f"inner_blocks.{i}.")
        name = name.replace(f"layer_blocks.{i}.0.", f"layer_blocks.{i}.")
    return name


def test_own_classes_of_a_torchvision_detector():
    name = "roi_heads.box_predictor.cls_score.bias"
    body = {"backbone.body.conv1.weight": torch.ones(1), "rpn.head.cls_logits.bias": torch.ones(3)}
    converted, _ = to_our_names({**body, name: torch.arange(4.0)})
    assert converted[name].tolist() == [1, 2, 3, 0]


def test_the_table_is_read_in_both_directions():
    for theirs, ours in TORCHVISION_DETECTOR_NAMES.modules.items():
        weight = theirs.replace("*", "11") + ".weight"
        renamed = TORCHVISION_DETECTOR_NAMES.ours(weight)
        assert renamed == ours.replace("*", "11") + ".weight"
        assert TORCHVISION_DETECTOR_NAMES.theirs(renamed) == weight


def test_mmdetections_mask_rcnn(mask_rcnn, tmp_path):
    """It has the names of the authors' release, which was written with it."""
    theirs = to_official(mask_rcnn)
    assert kind_of(theirs) == "official-detector"
    converted, notes = to_our_names(theirs)
    assert converted.keys() == mask_rcnn.keys()
    assert notes.renamed["roi_heads.mask_head.deconv.weight"] == "roi_head.mask_head.upsample.weight"
    small = {
        name: torch.zeros(1).expand(value.shape)[tuple(slice(2) for _ in value.shape)]
        if "head" in name
        else torch.zeros(()).expand(value.shape)
        for name, value in theirs.items()
    }
    convert_file("mmdetection", save_torch(tmp_path, {"state_dict": small}), tmp_path / "x.pth")


def test_what_no_table_knows_keeps_its_name(ours):
    converted, notes = to_our_names({**to_official(ours), "aux.weight": torch.ones(1)})
    assert "aux.weight" not in notes.renamed
    assert any(name.endswith("aux.weight") for name in converted)


# ------------------------------------------------------------------------- plain models of detectron2


def plain():
    """A small FPN of detectron2's own, as its configs build it."""
    channels, stages = 8, []
    for i in range(4):
        out = 32 * 2**i
        blocks = [
            BottleneckBlock(
                channels if block == 0 else out,
                out,
                bottleneck_channels=out // 4,
                stride=2 if i and block == 0 else 1,
                norm="FrozenBN",
                stride_in_1x1=True,
            )
            for block in range(2 if i == 2 else 1)
        ]
        stages.append(blocks)
        channels = out
    fpn = FPN(ResNet(BasicStem(3, 8, norm="FrozenBN"), stages, out_features=STAGES), STAGES, 8)
    return nn.ModuleDict({"backbone": fpn, "head": nn.Linear(2, 2)})


def same_as_detectron2(file, query=""):
    """Load a file by our function and by detectron2's checkpointer; the results are equal."""
    model, reference = plain(), plain()
    reference.load_state_dict(model.state_dict())
    report = load_weights(model, f"{file}{query}", start=True)
    DetectionCheckpointer(reference).load(f"{file}{query}")
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=0, atol=0)
    return model.state_dict(), report


@pytest.mark.parametrize("statistics", [True, False])
def test_a_plain_model_starts_from_msras(ours, tmp_path, statistics):
    file = save_pickle(tmp_path, arrays(of_caffe2(ours, statistics)))
    loaded, report = same_as_detectron2(file)
    assert torch.equal(loaded["backbone.bottom_up.res4.1.conv2.weight"], ours["res4.1.conv2.weight"])
    assert report.share("backbone.bottom_up.") == 1
    assert report.renamed["backbone.bottom_up.stem.conv1.weight"] == "conv1_w"
    assert set(report.unexpected) == {"fc1000.weight", "fc1000.bias"}


def test_a_plain_model_starts_from_torchvisions(ours, tmp_path, monkeypatch):
    """By the address that detectron2's configs name, from PathManager's cache."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    folder = tmp_path / "detectron2/ImageNetPretrained/torchvision"
    folder.mkdir(parents=True)
    save_pickle(
        folder,
        {"model": arrays(of_detectron2(ours)), "__author__": "torchvision", "matching_heuristics": True},
    )
    address = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
    loaded, report = same_as_detectron2(address)
    assert report.share("backbone.bottom_up.") == 1
    model = detector()
    load_weights(model, address, start=True)
    name = "backbone.bottom_up.res4.1.conv2.weight"
    assert torch.equal(model.state_dict()[name], loaded[name])


def test_names_are_matched_by_their_ends_where_the_address_says_so(ours, tmp_path):
    body = {
        name: value
        for name, value in ours.items()
        if not name.startswith("linear.") and not name.endswith(COUNTER)
    }
    file = save_torch(tmp_path, {"model": body})
    _, report = same_as_detectron2(file, "?matching_heuristics=True")
    assert report.share("backbone.bottom_up.") == 1
    with pytest.raises(CheckpointError, match=r"cannot be fetched|does not exist"):
        load_weights(plain(), f"{file}?other=True", start=True)


def test_a_plain_model_of_the_zoo_is_evaluated(tmp_path):
    """Its files hold what follows from the config, as detectron2's models had it once."""
    weights = {name: torch.rand(value.shape) for name, value in plain().state_dict().items()}
    derived = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    zoo = {"model": arrays(weights | derived), "__author__": "Detectron2 Model Zoo"}
    model = plain()
    report = load_weights(model, save_pickle(tmp_path, zoo, "model_final.pkl"))
    assert report.dropped.keys() == derived.keys()
    torch.testing.assert_close(model.state_dict(), weights)


# --------------------------------------------------------------------------------------- safetensors


VALUES = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor(7),
    "c": torch.ones(3, dtype=torch.bfloat16),
    "d": torch.zeros(0, 2),
    "e": torch.tensor([True, False]),
    "f": torch.rand(4, 3).T,
}


def test_safetensors_out_and_in(tmp_path):
    write_safetensors(VALUES, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    torch.testing.assert_close(read_safetensors(content), VALUES, rtol=0, atol=0)
    torch.testing.assert_close(safetensors.torch.load(content), VALUES, rtol=0, atol=0)
    contiguous = {name: value.contiguous() for name, value in VALUES.items()}
    torch.testing.assert_close(read_safetensors(safetensors.torch.save(contiguous)), VALUES, rtol=0, atol=0)


def _file(header, numbers=bytes(8)):
    return len(header).to_bytes(8, "little") + header + numbers


def test_a_header_as_long_as_a_pickle_begins(tmp_path):
    """With 0x0480 bytes the file begins as pickles of protocol 4 do."""
    header = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'.ljust(0x0480)
    (tmp_path / "x.safetensors").write_bytes(_file(header))
    assert read_checkpoint(tmp_path / "x.safetensors")["model"]["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "content",
    [
        _file(b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}'),
        _file(b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 8]}}'),
        _file(b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}'),
        _file(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}'),
        _file(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'),
        _file(b'{"a": {"dtype": "F9", "shape": [2], "data_offsets": [0, 8]}}'),
        _file(
            b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
            b'"b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
        ),
        _file(b'{"a": 1}'),
        _file(b"{" * 100_000),
        (2**31).to_bytes(8, "little") + b"{}",
        _file(b"{}", b"x"),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors is a damaged safetensors file"):
        load_weights(nn.Linear(2, 2), tmp_path / "x.safetensors")


def test_conversions_write_safetensors(ours, tmp_path):
    convert_file("torchvision", save_torch(tmp_path, to_official(ours)), tmp_path / "x.safetensors")
    read = read_safetensors((tmp_path / "x.safetensors").read_bytes())
    assert all(torch.equal(read[f"backbone.{name}"], value) for name, value in ours.items())


# ----------------------------------------------------------------------- the authors' detection layout


@pytest.mark.parametrize("res5_stride", [1, 2])
def test_an_imagenet_file_of_the_authors_in_the_detection_layout(tmp_path, res5_stride):
    small = dict(SMALL, base_channels=16, num_heads=8, blocks=[1, 1, 2, 2])
    options = dict(small, num_classes=3, positions="decomposed", res5_stride=res5_stride)
    weights = {n: torch.rand(v.shape) for n, v in build_lesa_resnet("lesa", **options).state_dict().items()}
    file = save_torch(tmp_path, {"net": {f"module.{n}": v for n, v in to_official(weights).items()}})
    conversion = convert_file("official-imagenet", file, tmp_path / "x.pth")
    assert "blocks 1-1-2-2" in conversion.network
    for start in (file, tmp_path / "x.pth"):
        fpn = FPN(build_lesa_resnet("lesa", **{**small, "image_size": 96}), STAGES, 8)
        model = nn.ModuleDict({"backbone": fpn})
        before = {name: value.clone() for name, value in model.state_dict().items()}
        report = load_weights(model, start, start=True)
        absent = {name for name in report.missing if "bottom_up" in name}
        assert absent == {name for name in before if ".rel_" in name}
        assert all(torch.equal(model.state_dict()[name], before[name]) for name in absent)
        name = "backbone.bottom_up.res5.1.conv2.binary.logit_norm.weight"
        assert torch.equal(model.state_dict()[name], weights[name.removeprefix("backbone.bottom_up.")])


def test_arrays_are_numpys():
    assert isinstance(arrays({"a": torch.ones(1)})["a"], np.ndarray)


def test_torchvisions_second_detectors_are_refused():
    """Their FPN and heads have norms, without which the convolutions mean something else."""
    with torch.device("meta"):
        theirs = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(weights_backbone=None).state_dict()
    with pytest.raises(CheckpointError, match="second generation"):
        to_our_names(theirs)


def test_statistics_that_detectron2_filled_in_are_none():
    """A detector trained from MSRA's file, saved by detectron2: its FrozenBN has mean 0 and variance 1 - eps."""
    weights = dict(plain().state_dict())
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(3)
    assert to_our_names(weights)  # untrained
    weights["backbone.bottom_up.stem.conv1.norm.weight"] = torch.rand(8)
    with pytest.raises(CheckpointError, match="do not show whether their images are RGB or BGR"):
        to_our_names(weights)
    weights["backbone.bottom_up.stem.conv1.norm.running_mean"] = torch.rand(8)
    assert to_our_names(weights)


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_other_models_of_torchvision_are_named(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models.detection, name)(weights_backbone=None).state_dict()
    with pytest.raises(CheckpointError, match="in a model that is not known here"):
        to_our_names(theirs)
