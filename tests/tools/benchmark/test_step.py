"""Steps on generated inputs: FLOPs of hand-computed layers, storages, and every architecture."""

import math
from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lesa_d2.config import load_config
from lesa_d2.layers import OPERATORS
from lesa_d2.layers.binary import BINARY_TERMS
from lesa_d2.layers.deform import DeformableConv2d
from lesa_d2.modeling.build import instantiate_model
from lesa_d2.tools.benchmark.step import (
    FORMULAS,
    OBJECTS,
    LiveMemory,
    generate_inputs,
    measure_step,
    prepare_config,
)

VITDET = str(Path(__file__).resolve().parents[2] / "engine/plain_vitdet.py")
KB = 1024
SMALL = [
    f"model.backbone.bottom_up.{key}"
    for key in ("base_channels=8", "stem_channels=8", "blocks=[1,1,2,1]", "num_heads=4", "image_size=96")
]
ROI = ["model.roi_heads.batch_size_per_image=32", "model.proposal_generator.post_nms_topk=[60,30]"]
TRANSFORMER = [
    f"model.backbone.net.{key}"
    for key in ("embed_dim=32", "depth=2", "num_heads=2", "window_block_indexes=[0]", "img_size=96")
]


def flops(module, *shape):
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        module(torch.zeros(shape))
    return counter.get_total_flops()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 9)])
def test_deformable_convolutions_are_counted(height, width):
    """As the convolution that they are, groups included, and the one of the offsets."""
    layer = DeformableConv2d(8, 12, 3, padding=1, groups=2)
    assert flops(layer, 2, 8, height, width) == 2 * 2 * height * width * 9 * (12 * 4 + 18 * 8)


@pytest.mark.parametrize("positions", ["decomposed", "flattened"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 6)])
@pytest.mark.parametrize("backend", ["auto", "blockwise", "reference"])
def test_attention_is_counted_by_its_plain_formula(positions, height, width, backend):
    channels, heads, n = 32, 4, height * width
    build = BINARY_TERMS[positions]
    term = build(channels, channels, num_heads=heads, feat_size=(height, width), backend=backend).eval()
    key, value = term.key_dim, term.value_dim
    projection = 2 * n * channels * heads * (2 * key + value)
    pairs = 2 * heads * n * n * (key + value)  # q·k and p·v
    if positions == "decomposed":
        relative = 2 * heads * n * key * (height + width)
    else:
        relative = 2 * heads * n * n * (2 * key + value)  # query and key tables, and that of the values
    assert flops(term, 1, channels, height, width) == projection + pairs + relative


def test_every_operator_is_counted_alike_whatever_its_backend():
    for name, operator in OPERATORS.items():
        counts = set()
        for backend in ("reference", "blockwise"):
            module = operator(
                32, 32, num_heads=4, feat_size=(7, 5), positions=operator.position_types[0], backend=backend
            )
            counts.add(flops(module.eval(), 1, 32, 7, 5))
        assert len(counts) == 1, name


def test_live_storages_are_counted():
    x = torch.randn(KB)
    with LiveMemory([x], []) as memory:
        y = x + 1
        assert memory.live == 4 * KB
        view = y.view(2, -1)
        z = y * 2
        assert (memory.live, memory.take_peak()) == (8 * KB, 8 * KB)
        del y
        assert memory.live == 8 * KB  # the view keeps it
        del view, z
        assert (memory.live, memory.take_peak(), memory.take_peak()) == (0, 8 * KB, 0)


def test_what_autograd_keeps_is_counted():
    layer, x = nn.Linear(KB, KB, bias=False), torch.randn(2, KB)
    with LiveMemory([x, layer.weight], []) as memory:
        out = layer(x).relu().sum()
        assert memory.live == 2 * 4 * KB + 4  # the activation, which relu keeps, and the sum
        out.backward()
        assert memory.live == 4 * KB * KB + 4  # the gradient stays


def test_operators_that_are_not_computed_return_shapes_and_varied_numbers():
    x, weight = torch.full((4, 3, 9, 9), math.nan), torch.zeros(5, 3, 3, 3)
    with LiveMemory([x, weight], []) as memory:
        out = nn.functional.conv2d(x, weight, stride=2)
    assert out.shape == (4, 5, 4, 4)
    assert out.isfinite().all()
    assert len(out.unique()) > 100
    assert memory.live == out.nbytes
    assert memory.take_peak() == 2 * out.nbytes + x.nbytes  # with oneDNN's copies


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("faster_rcnn_lesa_r50", [*SMALL, *ROI]),
        ("mask_rcnn_lesa_dconv_r50_20e", [*SMALL, *ROI]),
        ("cascade_mask_rcnn_lesa_r50", [*SMALL, *ROI]),
        ("htc_lesa_dconv_wr50_20e_1280", [*SMALL, *ROI]),
        ("keypoint_rcnn_lesa_r50", [*SMALL, *ROI]),
        ("retinanet_lesa_r50", [*SMALL, "model.backbone.top_block.in_channels=256"]),
        ("fcos_lesa_r50", SMALL),
        ("panoptic_fpn_lesa_r50", [*SMALL, *ROI]),
        ("semantic_fpn_lesa_r50", SMALL),
        ("new_baselines/mask_rcnn_R_50_FPN_50ep_LSJ", ROI),
        (VITDET, [*TRANSFORMER, *ROI]),
        ("quickstart_classifier", ["model.mixup=0.2", "model.cutmix=1.0"]),
    ],
)
def test_every_architecture_takes_a_step(name, overrides, training):
    cfg = load_config(name, overrides)
    prepare_config(cfg)
    model = instantiate_model(cfg.model).train(training)
    before = torch.get_rng_state()
    cost = measure_step(model, generate_inputs(cfg, 1, (96, 128)))
    assert torch.equal(torch.get_rng_state(), before)
    assert max(cost.peaks.values()) > 0
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(f"gradient of {name}" in cost.peaks for name in trained) == training
    sections = [name for name, module in model.named_children() if any(True for _ in module.parameters())]
    assert all(cost.flops.get(name, 0) > 0 for name in sections)


@pytest.mark.parametrize("side", [256, 512])
def test_as_many_regions_as_are_sampled_at_most(side):
    cfg = load_config("mask_rcnn_lesa_r50", SMALL)
    prepare_config(cfg)
    model = instantiate_model(cfg.model)
    cost = measure_step(model.train(), generate_inputs(cfg, 1, (side, side)))
    assert cost.flops["roi_heads.box_head"] == 512 * 2 * (256 * 49 * 1024 + 1024 * 1024)
    assert cost.flops["roi_heads.mask_head.predictor"] == 128 * 2 * 784 * 256 * 80
    cost = measure_step(model.eval(), generate_inputs(cfg, 1, (side, side)))
    assert cost.flops["roi_heads.box_head"] == 1000 * 2 * (256 * 49 * 1024 + 1024 * 1024)
    assert cost.flops["roi_heads.mask_head.predictor"] == 100 * 2 * 784 * 256 * 80


def test_the_truth_is_what_the_model_learns_from():
    size = (64, 96)
    [item] = generate_inputs(load_config("mask_rcnn_lesa_r50"), 1, size)
    assert isinstance(item["instances"].gt_masks, BitMasks)
    polygons = load_config("mask_rcnn_lesa_r50", ["dataloader.train.mapper.instance_mask_format=polygon"])
    [item] = generate_inputs(polygons, 1, size)
    assert isinstance(item["instances"].gt_masks, PolygonMasks)
    assert item["image"].shape == (3, *size)
    assert item["sem_seg"].shape == size
    [item] = generate_inputs(load_config("keypoint_rcnn_lesa_r50"), 1, size)
    boxes, keypoints = item["instances"].gt_boxes.tensor, item["instances"].gt_keypoints.tensor
    assert keypoints.shape == (OBJECTS, 17, 3)
    torch.testing.assert_close(keypoints[:, :, :2].amin(1), boxes[:, :2])
    torch.testing.assert_close(keypoints[:, :, :2].amax(1), boxes[:, 2:])
    assert not item["instances"].has("gt_masks")
    assert boxes[:, 2].max() <= size[1] / 2
