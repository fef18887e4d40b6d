"""FLOP and parameters: hand-computed layers, the plain formula of attention, pinned models."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lesa_d2.engine import load_config
from lesa_d2.layers import OPERATORS
from lesa_d2.layers.binary import BINARY_TERMS
from lesa_d2.layers.deform import DeformableConv2d
from lesa_d2.tools.benchmark.budget import Setting
from lesa_d2.tools.benchmark.cost import FORMULAS, PartCost, by_formula, cost_table, part_costs
from lesa_d2.tools.benchmark.cost_script import run_cost_command
from lesa_d2.tools.benchmark.memory import without_numbers

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def flops(module, *shape):
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        module(torch.zeros(shape))
    return counter.get_total_flops()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 9)])
def test_deformable_convolutions_are_counted(height, width):
    """As the convolution that they are, groups included, and the one of the offsets."""
    layer = DeformableConv2d(8, 12, 3, padding=1, groups=2)
    here = height * width
    assert flops(layer, 2, 8, height, width) == 2 * 2 * here * 9 * (12 * 4 + 18 * 8)
    with without_numbers(), torch.no_grad():
        assert flops(DeformableConv2d(8, 12, 3, padding=1, groups=2), 2, 8, height, width) == flops(
            layer, 2, 8, height, width
        )


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
    by_formula(term)
    assert flops(term, 1, channels, height, width) == projection + pairs + relative


def test_every_operator_is_counted_alike_whatever_its_backend():
    for name, operator in OPERATORS.items():
        counts = set()
        for backend in ("reference", "blockwise"):
            module = operator(
                32, 32, num_heads=4, feat_size=(7, 5), positions=operator.position_types[0], backend=backend
            )
            by_formula(module)
            counts.add(flops(module.eval(), 1, 32, 7, 5))
        assert len(counts) == 1, name


def costs(name, size, training=True):
    setting = Setting(load_config(str(CONFIGS / f"{name}.py")), training, (size, size), 1)
    return {c.name: c for c in part_costs(setting.build, setting.size, 1, setting.regions())}


def test_published_classifiers():
    """The figures of projects/LESA/README.md, in GFLOP."""
    for name, gflops, parameters in (
        ("imagenet_conv_r50", 8.2, 25_557_032),
        ("imagenet_lesa_r50", 12.4, 23_777_512),
        ("imagenet_lesa_wr50", 33.1, 61_145_896),
    ):
        cost = costs(name, 224)["classifier"]
        assert round(cost.flops / 1e9, 1) == gflops
        assert cost.parameters == parameters


@pytest.mark.parametrize(
    ("name", "gflops", "parameters"),
    [
        ("mask_rcnn_conv_r50", 290, 44_396_336),
        ("mask_rcnn_sa_r50", 357, 36_651_216),
        ("mask_rcnn_lesa_r50", 387, 42_372_304),
        ("cascade_mask_rcnn_lesa_r50", 387, 70_014_014),
    ],
)
def test_detectors(name, gflops, parameters):
    found = costs(name, 1024)
    assert round((found["backbone"].flops + found["FPN"].flops) / 1e9) in (gflops, gflops + 1)
    assert sum(cost.parameters for cost in found.values()) == parameters
    # RPN: 3×3 and two 1×1 on all levels; Mask R-CNN's heads by hand
    places = sum((256 >> k) ** 2 for k in range(5))
    assert found["RPN"].flops == 2 * places * 256 * (9 * 256 + 3 + 12)
    if name.startswith("mask_rcnn"):
        boxes = 512 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
        masks = 128 * (4 * 196 * 9 * 256 * 256 + 196 * 256 * 256 * 4 + 784 * 256 * 80)
        assert found["RoI heads"].flops == 2 * (boxes + masks)


def test_inference_sees_other_numbers_of_regions():
    boxes = 1000 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    masks = 100 * (4 * 196 * 9 * 256 * 256 + 196 * 256 * 256 * 4 + 784 * 256 * 80)
    assert costs("mask_rcnn_conv_r50", 256, training=False)["RoI heads"].flops == 2 * (boxes + masks)


def test_table():
    table = cost_table([PartCost("a", 1000, 2 * 10**9), PartCost("b", 1, 10**9)])
    assert "| **all** |        1,001 |              3.0 |" in table


def test_command(capsys):
    assert run_cost_command(["--config-file", str(CONFIGS / "quickstart_lesa.py"), "--memory", "1"]) == 0
    out = capsys.readouterr().out
    assert "3,175,552" in out
    assert "1 image(s) of 160×160, training, 64 regions and 16 masks an image" in out
    assert "It fits as it is." in out


def test_command_for_inference_of_another_size(capsys):
    file = str(CONFIGS / "quickstart_htc.py")
    options = ["--mode", "inference", "--image-size", "96", "128", "--batch", "2"]
    assert run_cost_command(["--config-file", file, *options]) == 0
    out = capsys.readouterr().out
    assert "2 image(s) of 96×128, inference, 150 regions and 100 masks" in out
    assert "optimizer" not in out


def test_sizes_are_padded_as_the_model_pads_them(capsys):
    file = str(CONFIGS / "quickstart_htc.py")
    options = ["--mode", "inference", "--image-size", "33", "47"]
    assert run_cost_command(["--config-file", file, *options]) == 0
    assert "1 image(s) of 33×47, inference, padded to 64×64 as the model does" in capsys.readouterr().out


def test_switches_that_cannot_be_run_are_left_out(capsys):
    """At 32×32 the last maps are of one place, which batch norms cannot learn from in a single image."""
    file = str(CONFIGS / "quickstart_lesa.py")
    options = ["--memory", "0.01", "--image-size", "32", "32", "--batch", "2"]
    assert run_cost_command(["--config-file", file, *options]) == 0
    out = capsys.readouterr().out
    assert "train.accumulate" not in out
    assert "mixed precision" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "0"], "--batch must be at least 1"),
        (["--image-size", "8", "99"], "at least 32"),
        (["--memory", "-1"], "finite, positive"),
        (["--memory", "inf"], "finite, positive"),
        (["--memory", "nan"], "finite, positive"),
        (["--image-size", "32", "32"], "1 image(s) of 32×32 at a time"),  # batch norms over one place
        (["train.accumulate=0"], "train.accumulate must be"),
        (["train.amp.enabled=True", "train.amp.dtype=half"], "train.amp.dtype must be"),
        (["model.backbone.bottom_up.opera=lesa"], "did you mean"),
    ],
)
def test_mistakes(options, words, capsys):
    assert run_cost_command(["--config-file", str(CONFIGS / "quickstart_lesa.py"), *options]) == 2
    assert words in capsys.readouterr().err


def test_models_of_another_kind_are_refused(tmp_path, capsys):
    cfg = load_config(str(CONFIGS / "quickstart_lesa.py"))
    cfg.model = {"_target_": nn.Identity, "input_format": "RGB"}
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    command = ["--config-file", str(tmp_path / "config.yaml"), "--image-size", "64", "64"]
    assert run_cost_command(command) == 2
    assert "got Identity" in capsys.readouterr().err
