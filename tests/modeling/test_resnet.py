import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from lesa_d2.config import add_lesa_config
from lesa_d2.layers import LESA, OPERATORS, DeformableConv2d, EvalBatchNorm2d
from lesa_d2.modeling import NORMS, build_lesa_resnet, operator_names

SMALL = {"image_size": 64, "stem_channels": 8, "base_channels": 8, "num_heads": 4, "blocks": [1, 1, 2, 2]}


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("operator", "width", "expected"),
    [
        ("conv", 1, 25_557_032),
        ("conv", 2, 68_883_240),
        ("self_attention", 1, 18_056_424),
        ("self_attention", 2, 38_284_072),
        ("static_lesa", 1, 20_429_544),
        ("lesa", 1, 23_777_512),
        ("lesa", 2, 61_145_896),
    ],
)
def test_classifier_parameters(operator, width, expected):
    with torch.device("meta"):
        assert count(build_lesa_resnet(operator, width, num_classes=1000)) == expected


def test_attention_augmentation_parameters():
    with torch.device("meta"):
        total = count(build_lesa_resnet("attention_augmentation", num_classes=1000))
    assert round(total / 1e6, 2) == 25.15


@pytest.mark.parametrize(
    ("width", "side", "operator", "deformable", "expected"),
    [
        (1, 1024, "conv", False, 23_508_032),
        (1, 1024, "conv", True, 24_088_874),
        (1, 1024, "lesa", False, 21_484_000),
        (1, 1024, "lesa", True, 22_064_842),
        (2, 1280, "conv", False, 66_834_240),
        (2, 1280, "conv", True, 67_995_690),
        (2, 1280, "lesa", False, 58_626_432),
        (2, 1280, "lesa", True, 59_787_882),
    ],
)
@pytest.mark.parametrize("freeze_at", [0, 2])
def test_detection_backbone_parameters(width, side, operator, deformable, expected, freeze_at):
    with torch.device("meta"):
        backbone = build_lesa_resnet(
            operator, width, deformable, image_size=side, norm="EvalBN", freeze_at=freeze_at
        )
    assert count(backbone) == expected


def test_which_blocks_hold_the_operator():
    backbone = build_lesa_resnet("lesa", image_size=64, base_channels=8, stem_channels=8, num_heads=4)
    held = [name for name, module in backbone.named_modules() if isinstance(module, LESA)]
    res4 = [f"res4.{index}.conv2" for index in range(1, 6)]
    assert held == res4 + [f"res5.{index}.conv2" for index in range(3)]
    sizes = {name: backbone.get_submodule(name).feat_size for name in held}
    assert sizes == {name: (2, 2) if name in ("res5.1.conv2", "res5.2.conv2") else (4, 4) for name in held}
    assert backbone.res5[0].conv2.stride == 2


def test_which_convolutions_are_deformable():
    backbone = build_lesa_resnet("lesa", deformable=True, **SMALL)
    names = [name for name, module in backbone.named_modules() if isinstance(module, DeformableConv2d)]
    slots = ["res4.1.conv2", "res5.0.conv2", "res5.1.conv2"]
    assert names == ["res3.0.conv2", "res4.0.conv2"] + [f"{slot}.unary.conv" for slot in slots]


@pytest.mark.parametrize("operator", operator_names())
@pytest.mark.parametrize("size", [(64, 64), (50, 91)], ids=str)
def test_every_operator_at_any_image_size(operator, size):
    backbone = build_lesa_resnet(operator, **SMALL).eval()
    features = backbone(torch.randn(1, 3, *size))
    for index, (name, shape) in enumerate(backbone.output_shape().items()):
        stride = 4 * 2**index
        assert shape.stride == stride
        height, width = (-(-side // stride) for side in size)
        assert features[name].shape == (1, shape.channels, height, width)
    assert backbone.size_divisibility == 0
    assert backbone.padding_constraints == {}


@pytest.mark.parametrize("operator", operator_names())
def test_every_operator_as_a_classifier(operator):
    model = build_lesa_resnet(operator, num_classes=7, **SMALL)
    out = model(torch.randn(2, 3, 64, 64))
    assert list(out) == ["linear"]
    assert out["linear"].shape == (2, 7)
    if operator in OPERATORS and "flattened" in OPERATORS[operator].position_types:
        assert model.res5[0].conv2.position_type == "flattened"


def test_other_image_sizes_of_the_tables_give_the_same_names():
    square, wide = (build_lesa_resnet("lesa", **{**SMALL, "image_size": size}) for size in (64, (64, 96)))
    assert list(square.state_dict()) == list(wide.state_dict())
    assert wide.res4[1].conv2.feat_size == (4, 6)


def test_frozen_part_gets_no_gradient_and_keeps_its_statistics():
    backbone = build_lesa_resnet("lesa", norm="BN", freeze_at=2, **SMALL).train()
    frozen = [backbone.stem, backbone.res2]
    before = {name: value.clone() for part in frozen for name, value in part.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))["res5"].square().sum().backward()
    assert all(p.grad is None for part in frozen for p in part.parameters())
    torch.testing.assert_close({n: v for part in frozen for n, v in part.state_dict().items()}, before)
    assert all(p.grad is not None for p in backbone.res3.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for part in frozen for m in part.modules())


def test_eval_norm_trains_its_affine_part_outside_the_frozen_part():
    backbone = build_lesa_resnet("lesa", norm="EvalBN", freeze_at=2, **SMALL).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(isinstance(m, EvalBatchNorm2d) for m in norms)
    statistics = [m.running_mean.clone() for m in norms]
    backbone(torch.randn(2, 3, 64, 64))["res5"].square().sum().backward()
    for norm, mean in zip(norms, statistics, strict=True):
        torch.testing.assert_close(norm.running_mean, mean)
    trained = {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert "res3.0.conv1.norm.weight" in trained
    assert not any(name.startswith(("stem.", "res2.")) for name in trained)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm(norm):
    backbone = build_lesa_resnet("lesa", norm=norm, **SMALL).eval()
    backbone(torch.randn(1, 3, 64, 64))["res5"].sum().backward()
    assert isinstance(backbone.res3[0].conv1.norm, FrozenBatchNorm2d) == (norm == "FrozenBN")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operator": "lisa"}, r"operator must be one of .*lesa"),
        ({"norm": "GN"}, "norm must be one of"),
        ({"blocks": [3, 4, 6]}, "blocks must hold four"),
        ({"blocks": [3, 4, 6, 0]}, "blocks must hold four"),
        ({"positions": "polar"}, "positions must be one of"),
        ({"blocks": 3}, "blocks must hold four"),
        ({"image_size": (64, 64, 3)}, "a size must be"),
        ({"image_size": None}, "a size must be"),
        ({"width_multiplier": 1.5}, "width_multiplier must be"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"num_heads": 0}, "num_heads must be"),
        ({"freeze_at": 9}, "freeze_at must be"),
        ({"out_features": ["res9"]}, "out_features must be"),
        ({"out_features": []}, "out_features must be"),
        ({"base_channels": 5}, "multiple of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        build_lesa_resnet(**{**SMALL, **options})


def yacs(**lesa):
    cfg = get_cfg()
    add_lesa_config(cfg)
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NORM = "EvalBN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.FPN.IN_FEATURES = cfg.MODEL.RESNETS.OUT_FEATURES
    cfg.MODEL.LESA.update({"IMAGE_SIZE": [64, 96], "NUM_HEADS": 4, "BLOCKS": [1, 1, 2, 2], **lesa})
    return cfg


@pytest.mark.parametrize("operator", operator_names())
def test_yacs_builds_what_the_function_builds(operator):
    build = BACKBONE_REGISTRY.get("build_lesa_resnet_backbone")
    torch.manual_seed(3)
    from_yacs = build(yacs(OPERATOR=operator, WIDTH_MULTIPLIER=2), ShapeSpec(channels=3))
    torch.manual_seed(3)
    ours = build_lesa_resnet(operator, 2, norm="EvalBN", freeze_at=2, **{**SMALL, "image_size": (64, 96)})
    assert str(from_yacs) == str(ours)
    torch.testing.assert_close(dict(from_yacs.state_dict()), dict(ours.state_dict()))
    trained = [[p.requires_grad for p in model.parameters()] for model in (from_yacs, ours)]
    assert trained[0] == trained[1]


def test_yacs_fpn():
    build = BACKBONE_REGISTRY.get("build_lesa_resnet_fpn_backbone")
    fpn = build(yacs(), ShapeSpec(channels=3)).eval()
    assert fpn.size_divisibility == 32
    assert list(fpn(torch.randn(1, 3, 64, 96))) == ["p2", "p3", "p4", "p5", "p6"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("STRIDE_IN_1X1", True), ("DEPTH", 101), ("DEFORM_ON_PER_STAGE", [False, True, True, True])],
)
def test_yacs_keys_that_would_be_ignored_are_refused(key, value):
    cfg = yacs()
    cfg.MODEL.RESNETS[key] = value
    with pytest.raises(ValueError, match=rf"LESA backbones need MODEL\.RESNETS\.{key}"):
        BACKBONE_REGISTRY.get("build_lesa_resnet_backbone")(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("num_classes", [None, 5])
def test_compiles_into_one_graph_that_trains_alike(num_classes):
    """Forward, gradients and running statistics; the graph is run by PyTorch's own operators."""
    options = dict(base_channels=8, stem_channels=8, num_heads=4, blocks=[1, 1, 2, 1], image_size=48)
    plain = build_lesa_resnet("lesa", num_classes=num_classes, **options)
    compiled = copy.deepcopy(plain)
    compiled.compile(fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 48, 48)
    outputs = []
    for model in (plain, compiled):
        out = list(model(x).values())[-1]
        out.square().mean().backward()
        outputs.append(out.detach())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        dict(compiled.named_buffers()), dict(plain.named_buffers()), rtol=1e-4, atol=1e-5
    )
    largest = max(float(p.grad.abs().max()) for p in plain.parameters())
    for (name, p), q in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(
            q.grad, p.grad, rtol=1e-3, atol=1e-5 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("operator", ["conv", "lesa", "self_attention"])
@pytest.mark.parametrize("norm", ["BN", "EvalBN"])
def test_checkpointed_stages_change_nothing_but_memory(operator, norm):
    """Outputs, gradients and running statistics are those of the plain backbone."""
    plain = build_lesa_resnet(operator, deformable=True, norm=norm, **SMALL)
    saving = build_lesa_resnet(
        operator, deformable=True, norm=norm, checkpoint_stages=["res3", "res4", "res5"], **SMALL
    )
    saving.load_state_dict(plain.state_dict())
    assert saving.state_dict().keys() == plain.state_dict().keys()
    kept = []
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, saving):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t
        ):
            features = model.train()(x)
        kept.append(sum(saved))
        sum(f.square().mean() for f in features.values()).backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(saving.state_dict()[name], value)
    assert kept[1] < 0.5 * kept[0]
    with torch.no_grad():
        torch.testing.assert_close(saving.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("stages", ["res4", ["res6"], ["stem"]])
def test_unknown_stages_to_checkpoint(stages):
    with pytest.raises(ValueError, match="checkpoint_stages must be some of"):
        build_lesa_resnet(checkpoint_stages=stages, **SMALL)


def test_yacs_checkpoints_stages():
    build = BACKBONE_REGISTRY.get("build_lesa_resnet_backbone")
    resnet = build(yacs(CHECKPOINT_STAGES=["res4"]), ShapeSpec(channels=3))
    assert [block.checkpointed for block in resnet.res4] == [True, True]
    assert not resnet.res5[0].checkpointed


def test_groups_of_the_ordinary_convolutions():
    """ResNeXt: every 3×3 convolution has them, deformable ones too; operators do not."""
    model = build_lesa_resnet("lesa", 2, deformable=True, num_groups=4, **SMALL)
    convolutions = {name: module for name, module in model.named_modules() if name.endswith("conv2")}
    groups = {name: module.groups for name, module in convolutions.items() if isinstance(module, nn.Conv2d)}
    assert groups == {"res2.0.conv2": 4, "res3.0.conv2": 4, "res4.0.conv2": 4}
    assert isinstance(convolutions["res3.0.conv2"], DeformableConv2d)
    assert tuple(convolutions["res2.0.conv2"].weight.shape) == (16, 4, 3, 3)
    assert convolutions["res4.1.conv2"].unary.conv.groups == SMALL["num_heads"]
    assert model(torch.randn(1, 3, 64, 64))["res5"].shape == (1, 256, 2, 2)


@pytest.mark.parametrize("num_groups", [0, 3, 1.0])
def test_wrong_numbers_of_groups(num_groups):
    with pytest.raises(ValueError, match=r"num_groups must be a positive int|divisible by groups"):
        build_lesa_resnet("conv", num_groups=num_groups, **SMALL)
