"""LESA from a convolutional ResNet: exact where it can be, near where it cannot, and every tensor accounted for."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from lesa_d2.checkpoint import convolution, convolution_options, convolution_to_lesa, slot_operators
from lesa_d2.checkpoint.factorisation import PatchMoments, ProjectionFit, box_filtered, box_fitted
from lesa_d2.errors import CheckpointError
from lesa_d2.layers import LESA, EvalBatchNorm2d
from lesa_d2.layers.unary import UnaryTerm
from lesa_d2.modeling import build_lesa_resnet, estimate_statistics

SMALL = {"base_channels": 16, "stem_channels": 16, "blocks": (1, 1, 2, 2), "image_size": 64}
OPERATORS = ["lesa", "static_lesa", "self_attention", "attention_augmentation"]


def network(operator, **options):
    """A network whose norms have statistics, weights and biases of a trained one."""
    model = build_lesa_resnet(operator, **{**SMALL, **options}).eval()
    for module in model.modules() if operator == "conv" else ():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


def fitted(operator, **options):
    """A network whose statistics are those of its inputs, as training leaves them."""
    model = network(operator, **options)
    estimate_statistics(model, pictures(8))
    return model


def started(source, operator, images=(), norm="EvalBN", **options):
    """A network that starts from ``source``, and the report."""
    model = network(operator, norm=norm, **options)
    start = convolution_to_lesa(source.state_dict(), model, images)
    model.load_state_dict(start.weights)
    return model, start


def pictures(number=4, side=64):
    return [nn.functional.avg_pool2d(torch.randn(4, 3, 2 * side, 2 * side), 2) for _ in range(number)]


def lower_rank(conv, groups=8):
    """Give the matrix of each group the rank that the unary term can hold."""
    kernel = conv.weight.data
    rank, inputs = kernel.shape[0] // groups, kernel.shape[1] // groups
    product = torch.randn(groups, kernel.shape[0], rank) @ torch.randn(groups, rank, 9 * inputs) / 10
    conv.weight.data = product.unflatten(2, (inputs, 3, 3)).transpose(0, 1).flatten(1, 2)


def assert_near(got, wanted, names=("res2", "res3", "res4")):
    for name in names:
        error = (got[name] - wanted[name]).norm() / wanted[name].norm()
        assert error < 1e-5, name


@pytest.mark.parametrize("operator", ["lesa", "static_lesa"])
@pytest.mark.parametrize("is_grouped", [False, True])
@pytest.mark.parametrize("with_images", [False, True])
def test_weights_of_the_rank_that_fits_convert_exactly(operator, is_grouped, with_images):
    """Stride 1 alone: at stride 2 the pool comes after the operator.  Groups are a multiple of the heads."""
    options = {"num_groups": 16 if is_grouped else 1}
    source = network("conv", **options)
    if not is_grouped:
        lower_rank(source.res4[1].conv2)
    model, start = started(source, operator, pictures(2) if with_images else (), **options)
    x = pictures(1)[0]
    if with_images:  # the statistics are those of the images
        assert start.slots[0].errors[1] < 1e-3  # float32; 1.6e-4 on one processor, less on others
    else:
        assert_near(model(x), source(x))
    assert start.slots[0].energy == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_outside_the_slots_is_copied_and_all_is_noted(operator):
    source = network("conv")
    model, start = started(source, operator)
    slots = tuple(f"{name}." for name in slot_operators(model))
    given = source.state_dict()
    assert set(start.notes) == set(model.state_dict())
    for name, value in model.state_dict().items():
        if not name.startswith(slots):
            assert torch.equal(value, given[name]), name
            assert start.notes[name] == "copied"
    assert [slot.name for slot in start.slots] == ["res4.1.conv2", "res5.0.conv2", "res5.1.conv2"]
    assert all(
        note != "initial value" for name, note in start.notes.items() if name.endswith("unary.conv.weight")
    )
    assert operator in ("self_attention", "attention_augmentation") or "unary term" in start.table()


def test_the_binary_term_is_silent_and_learns():
    model, _ = started(network("conv"), "lesa")
    model.train()
    operator = model.res4[1].conv2
    x = torch.randn(2, operator.in_channels, 4, 4)
    assert operator.binary(x).abs().max() == 0
    operator(x).square().sum().backward()
    assert operator.binary.out_norm.weight.grad.abs().sum() > 0
    assert operator.binary.out_norm.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("operator", ["lesa", "static_lesa"])
def test_with_images_outputs_come_nearer_and_statistics_are_those_of_the_inputs(operator):
    source, images = fitted("conv"), pictures(8)
    blind, _ = started(source, operator)
    model, start = started(source, operator, images)
    assert start.slots[0].errors[1] < start.slots[0].errors[0]
    x = pictures(1)[0]
    wanted = source(x)["res4"]
    assert (model(x)["res4"] - wanted).norm() < (blind(x)["res4"] - wanted).norm()
    inputs = []
    norm = model.res5[1].conv3.norm
    norm.register_forward_pre_hook(lambda module, x: inputs.append(x[0]))
    for image in images:
        model(image)
    seen = torch.cat(inputs).transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, seen.mean(1), rtol=0.2, atol=0.2)
    assert (norm.running_var / seen.var(1)).log().abs().median() < 0.3


def test_at_stride_2_the_output_keeps_its_scale():
    """The norm divides by the deviation before the pool, which averages most of that away."""
    source, images = fitted("conv"), pictures(8)
    model, _ = started(source, "lesa", images)
    outputs = {}
    for key, net in (("source", source), ("lesa", model)):
        net.res5[0].conv2.register_forward_hook(lambda m, x, y, key=key: outputs.setdefault(key, y))
        net(images[0])
    ratio = outputs["lesa"].std() / outputs["source"].std()
    assert 0.7 < ratio < 1.3


def test_norms_before_the_first_slot_and_the_models_given_stay_as_they_are():
    source, model = network("conv"), network("lesa", norm="EvalBN")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = convolution_to_lesa(source.state_dict(), model, pictures(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in source.state_dict().items():
        if name.startswith(("stem.", "res2.", "res3.")):
            assert torch.equal(start.weights[name], value)
    assert not torch.equal(
        start.weights["res4.1.conv3.norm.running_var"], source.state_dict()["res4.1.conv3.norm.running_var"]
    )


@pytest.mark.parametrize(
    "options", [{"norm": "FrozenBN"}, {"norm": "BN", "freeze_at": 4}, {"norm": "EvalBN", "freeze_at": 5}]
)
def test_operators_that_cannot_train_are_refused(options):
    """A silent term would be silent for ever."""
    with pytest.raises(CheckpointError, match=r"could never learn\. Choose norm=EvalBN"):
        convolution_to_lesa(network("conv").state_dict(), network("lesa", **options))


def test_statistics_that_are_frozen_cannot_be_estimated():
    model = network("self_attention", norm="FrozenBN")
    with pytest.raises(CheckpointError, match=r"res4.* is frozen"):
        convolution_to_lesa(network("conv").state_dict(), model, pictures(2))


def test_frozen_early_stages_and_their_norms_are_copied():
    source = network("conv")
    model, start = started(source, "lesa", pictures(2), norm="BN", freeze_at=2)
    assert torch.equal(model.stem.conv1.norm.running_var, source.stem.conv1.norm.running_var)
    assert start.notes["res4.1.conv3.norm.running_var"] == "statistics of the images"
    assert start.notes["res4.1.conv3.norm.weight"] == "copied"


def test_a_slot_that_gets_nothing_converts():
    source = fitted("conv")
    nn.init.zeros_(source.res4[1].conv1.norm.weight)
    nn.init.constant_(source.res4[1].conv1.norm.bias, -1)
    _, start = started(source, "lesa", pictures(4))
    assert all(torch.isfinite(value).all() for value in start.weights.values())


def test_images_that_are_too_small_are_one_error():
    with pytest.raises(CheckpointError, match="as small as"):
        started(network("conv"), "lesa", [torch.randn(1, 3, 32, 32)])


def test_other_types_of_numbers():
    source, images = network("conv"), pictures(2)
    _, wanted = started(source, "lesa", images)
    half = network("lesa", norm="EvalBN").bfloat16()
    start = convolution_to_lesa(source.half().state_dict(), half, [image.bfloat16() for image in images])
    half.load_state_dict(start.weights)
    assert start.slots[0].errors[1] == pytest.approx(wanted.slots[0].errors[1], abs=0.05)


def test_stages_that_are_not_built_are_left_out():
    model = network("lesa", out_features=["res4"])
    start = convolution_to_lesa(network("conv").state_dict(), model)
    assert set(start.weights) == set(model.state_dict())


class Coarse(LESA):
    """An operator from outside: its unary term has groups of its own, and a bias."""

    def make_unary(self, norm):
        term = UnaryTerm(self.in_channels, self.out_channels, groups=4, norm=norm)
        term.project = nn.Conv2d(self.out_channels, self.out_channels, 1)
        return term


def test_operators_from_outside():
    source = network("conv")
    lower_rank(source.res4[1].conv2, groups=4)
    model, _ = started(source, Coarse)
    x = pictures(1)[0]
    assert_near(model(x), source(x))


def test_everything_is_made_where_the_weights_are():
    """Without a GPU: on torch's fake tensors of one, and on its device without data."""
    with FakeTensorMode():
        kernel, x = torch.empty(16, 16, 3, 3, device="cuda"), torch.empty(2, 16, 6, 6, device="cuda")
        moments, fit = PatchMoments(4), ProjectionFit()
        moments.add(box_filtered(x))
        fit.add(x, x)
        project = kernel[:, :, :1, :1]
        made = (box_fitted(kernel), moments.covariance(), fit.solve(project), fit.variance(project))
        assert {tensor.device.type for tensor in made} == {"cuda"}
    target = network("lesa").to("meta")
    source = convolution._convolutional(target, slot_operators(target), network("conv").state_dict())
    assert {tensor.device.type for tensor in source.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_every_kind_of_norm_gets_the_same_statistics(norm):
    source, images = fitted("conv"), pictures(4)
    torch.manual_seed(1)
    wanted, _ = started(source, "lesa", images)
    torch.manual_seed(1)
    model, _ = started(source, "lesa", images, norm=norm)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(value, wanted.state_dict()[name], rtol=1e-4, atol=1e-4)


def test_large_maps_are_taken_one_by_one(monkeypatch):
    """The norm of the logits is called with maps of all pairs of positions."""
    seen = []
    monkeypatch.setattr(
        convolution, "estimate_statistics", lambda model, parts, norms: seen.extend(map(len, parts))
    )
    monkeypatch.setattr(convolution, "MAP_BYTES", 2 * 2 * 8 * 16**2 * 4)
    convolution_to_lesa(network("conv").state_dict(), network("lesa"), [torch.randn(5, 3, 64, 64)])
    assert seen == [2, 2, 1]


def test_silent_terms_have_the_statistics_of_what_they_compute():
    model, _ = started(network("conv"), "lesa", pictures(2))
    binary = model.res4[1].conv2.binary
    for norm in (binary.qkv_norm, binary.logit_norm, binary.out_norm, model.res4[1].conv2.gate.norm1):
        assert isinstance(norm, EvalBatchNorm2d)
        assert (norm.running_var > 0).all()
        assert not torch.allclose(norm.running_var, torch.ones(()))


def test_deformable_convolutions_keep_their_offsets():
    source = network("conv", deformable=True)
    for module in source.modules():
        if hasattr(module, "offset"):
            nn.init.normal_(module.offset.weight, std=0.1)
    lower_rank(source.res4[1].conv2)
    model, start = started(source, "lesa", deformable=True)
    x = pictures(1)[0]
    assert_near(model(x), source(x))
    assert start.slots[0].energy == pytest.approx(1, abs=1e-5)


def test_offsets_without_a_source_start_at_zero():
    model, start = started(network("conv"), "lesa", deformable=True)
    offset = model.res4[1].conv2.unary.conv.offset
    assert offset.weight.abs().max() == 0
    assert start.notes["res4.1.conv2.unary.conv.offset.weight"] == "initial value"
    assert start.notes["res3.0.conv2.offset.weight"] == "initial value"


def test_the_values_of_attention_are_what_the_convolution_computes_of_a_constant():
    source = network("conv")
    model, _ = started(source, "self_attention")
    binary, conv = model.res4[1].conv2.binary, source.res4[1].conv2
    constant = torch.randn(1, conv.weight.shape[1], 1, 1).expand(-1, -1, 5, 5)
    values = binary.split_heads(binary.qkv(constant))[2]  # (N, G, n, dv)
    wanted = nn.functional.conv2d(constant, conv.weight)[0, :, 0, 0]
    torch.testing.assert_close(values[0, :, 0].flatten(), wanted, rtol=1e-4, atol=1e-4)


def test_attention_augmentation_copies_the_convolution():
    source = network("conv")
    model, _ = started(source, "attention_augmentation")
    operator = model.res4[1].conv2
    torch.testing.assert_close(operator.conv.weight, source.res4[1].conv2.weight[: len(operator.conv.weight)])


def test_few_images_do_not_make_it_worse():
    source = network("conv")
    _, start = started(source, "lesa", [torch.zeros(1, 3, 64, 64) + torch.randn(1, 3, 1, 1)])
    for slot in start.slots:
        assert slot.errors[1] <= slot.errors[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("res3.0.conv1.weight"), "res3.0.conv1.weight is missing"),
        (lambda w: w.update({"res9.0.x": torch.ones(1)}), "res9.0.x is unknown"),
        (lambda w: w.update({"stem.conv1.weight": torch.ones(2)}), r"stem.conv1.weight is \(2,\), expected"),
        (lambda w: w.update({"res4.1.conv2.weight": torch.ones(2, 3, 3, 3)}), "res4.1.conv2.weight is"),
        (lambda w: w.update({"res4.1.conv2.weight": torch.ones(2)}), "res4.1.conv2.weight is"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    weights = network("conv").state_dict()
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        convolution_to_lesa(weights, network("lesa"))


def test_norms_and_classes_of_other_files():
    """No counters, as in FrozenBN's files, and a classifier of other classes, which starts anew."""
    weights = network("conv", num_classes=3).state_dict()
    weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    start = convolution_to_lesa(weights, network("lesa", num_classes=5, positions="decomposed"))
    assert start.notes["linear.weight"] == "initial value"
    assert start.notes["res2.0.conv1.norm.running_mean"] == "copied"


def test_the_options_of_a_file():
    weights = network("conv", blocks=(1, 2, 3, 1), width_multiplier=2, num_groups=4).state_dict()
    found = convolution_options({f"backbone.bottom_up.{name}": value for name, value in weights.items()})
    assert found == {
        "blocks": [1, 2, 3, 1],
        "width_multiplier": 2,
        "num_groups": 4,
        "deformable": False,
        "stem_channels": 16,
        "base_channels": 16,
    }
    with pytest.raises(CheckpointError, match=r"no 'res2\.0\.conv3\.weight'"):
        convolution_options({"x": torch.ones(1)})
