"""Every step that is measured computes what its name says, at small sizes."""

from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from torch.nn.modules.module import register_module_forward_pre_hook

from lesa_d2.tools.benchmark import cases

NAMES = {FastRCNNConvFCHead: "box_head", MaskRCNNConvUpsampleHead: "mask_head"}
ROOT = Path(__file__).resolve().parents[3]
BUILDS = {
    "attention": partial(cases.relative, backend="blockwise", side=5),
    "vitdet": partial(cases.vitdet, exact=False, side=5, heads=1),
    "vitdet, ours": partial(cases.vitdet, exact=True, side=5, heads=1),
    "no bias": partial(cases.unbiased, side=5),
    "binary": partial(cases.operator, operator="lesa", section="binary", channels=32, side=6),
    "batch": partial(cases.operator, operator="lesa", statistics="batch", channels=32, side=6),
    "flattened": partial(
        cases.operator, operator="lesa", positions="flattened", channels=32, side=6, images=2
    ),
    "conv": partial(cases.operator, operator="conv", channels=32, side=6),
    "bfloat16": partial(cases.operator, operator="lesa", channels=32, side=6, dtype=torch.bfloat16),
    "backbone": partial(cases.backbone, operator="lesa", image_size=64),
    "detector": partial(
        cases.detector, config_file=str(ROOT / "configs/mask_rcnn_lesa_r50.py"), image_size=64
    ),
    "htc": partial(
        cases.detector,
        config_file=str(ROOT / "configs/htc_lesa_dconv_wr50_20e_1280.py"),
        image_size=64,
        checkpoint_stages=["res4"],
    ),
}


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("mode", ["forward", "training"])
def test_steps_run(name, mode):
    out = BUILDS[name](mode)()
    assert (out is None) == (mode == "training")


@pytest.mark.parametrize("mode", ["forward", "training"])
def test_heads_of_detectors_work_on_equally_many_regions(mode):
    seen = []
    for operator in ("conv", "lesa"):
        numbers = {"box_head": [], "mask_head": []}

        def count(module, inputs, numbers=numbers):
            if type(module) in NAMES:
                numbers[NAMES[type(module)]].append(len(inputs[0]))

        handle = register_module_forward_pre_hook(count)
        config = str(ROOT / f"configs/mask_rcnn_{operator}_r50.py")
        out = cases.detector(mode, config_file=config, image_size=64)()
        handle.remove()
        seen.append(numbers)
        assert mode == "training" or len(out[0]["instances"]) == 100
    assert seen[0] == seen[1]
    assert seen[0]["box_head"] == ([512] if mode == "training" else [1000])


def test_training_leaves_gradients_and_forward_none():
    layer = torch.nn.Linear(2, 2)
    x = torch.randn(1, 2)
    cases.make_step("forward", lambda: layer(x), list(layer.parameters()))()
    assert layer.weight.grad is None
    step = cases.make_step("training", lambda: {"out": layer(x)}, list(layer.parameters()))
    step()
    once = layer.weight.grad.clone()
    step()
    torch.testing.assert_close(layer.weight.grad, once)  # not accumulated


def test_stored_statistics_are_those_of_the_batch():
    def build(norm):
        return torch.nn.Sequential(norm(3))

    x = 5 + 2 * torch.randn(4, 3, 8, 8)
    out = cases.with_stored_statistics(build, x).train()(x)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(3), atol=1e-2, rtol=0)


def test_variants_of_attention_hold_every_backend_that_can_run_here():
    names = [variant.name for variant in cases.variants_of_attention(4)]
    assert names == ["reference", "blockwise", "sdpa", "no bias, d=32"]
