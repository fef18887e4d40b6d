"""Loading weights, and the report of it."""

import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lesa_d2.checkpoint import (
    LoadReport,
    classifier_to_detector,
    compare_weights,
    load_evaluated_weights,
    load_weights,
    to_official,
)
from lesa_d2.errors import CheckpointError
from lesa_d2.layers import SlotOperator
from lesa_d2.modeling import build_lesa_resnet


class Detector(nn.Module):
    def __init__(self, width=2, classes=3):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": nn.Linear(width, 4, bias=False)})
        self.roi_heads = nn.ModuleDict(
            {"box_predictor": nn.ModuleDict({"cls_score": nn.Linear(4, classes + 1, bias=False)})}
        )


def load(tmp_path, saved, model):
    file = tmp_path / "weights.pth"
    torch.save(saved, file)
    return load_weights(model, file, check=lambda report: None)


def test_everything_loaded(tmp_path):
    model = Detector()
    saved = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    report = load(tmp_path, {"model": saved}, model)
    assert report.share() == report.share("backbone.bottom_up.") == 1
    report.check_complete()
    report.check_start()
    assert model.backbone["bottom_up"].weight.sum() == 8


def test_a_bare_state_dict_loads_too(tmp_path):
    load(tmp_path, Detector().state_dict(), Detector()).check_complete()


def test_backbone_alone_is_a_usable_start(tmp_path):
    backbone = {"backbone.bottom_up.weight": torch.ones(4, 2)}
    report = load(tmp_path, backbone, Detector())
    assert report.share() == pytest.approx(8 / 24)
    report.check_start()
    assert "33.3% of the model (100.0% of the backbone, " in report.summary()
    with pytest.raises(
        CheckpointError, match=r"missing in the file: roi_heads.box_predictor.cls_score.weight"
    ):
        report.check_complete()


def test_other_classes_are_named(tmp_path):
    report = load(tmp_path, Detector(classes=80).state_dict(), Detector(classes=3))
    with pytest.raises(CheckpointError, match=r"the file has 80, model\.roi_heads\.num_classes is 3"):
        report.check_start()
    report.check_partial_start()


@pytest.mark.parametrize("check", [LoadReport.check_start, LoadReport.check_partial_start])
def test_another_backbone_is_refused(tmp_path, check):
    report = load(tmp_path, Detector(width=5).state_dict(), Detector())
    with pytest.raises(CheckpointError, match=r"\(4, 5\) in the file, \(4, 2\) expected"):
        check(report)


def test_the_reason_stands_in_the_first_line(tmp_path):
    """Where all of the backbone fits, its share is none."""
    model = Detector()
    weights = {**model.state_dict(), "extra": torch.zeros(3)}
    torch.save({"model": weights}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, str(tmp_path / "x.pth"))
    assert str(caught.value).splitlines()[0].endswith("fits; tensors: 1 unknown to the model.")


def test_unrelated_file_is_refused(tmp_path):
    report = load(tmp_path, {"something": torch.ones(1)}, Detector())
    with pytest.raises(CheckpointError, match="0% of the backbone fits"):
        report.check_partial_start()


def test_pickled_objects_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="plain tensors"):
        load(tmp_path, {"model": Detector()}, Detector())


@pytest.mark.parametrize(
    "kept", [{"backbone.bottom_up.weight"}, {"roi_heads.box_predictor.cls_score.weight"}]
)
def test_a_refused_file_changes_nothing(tmp_path, kept):
    saved = {name: torch.ones_like(value) for name, value in Detector().state_dict().items() if name in kept}
    model, file = Detector(), tmp_path / "weights.pth"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(saved, file)
    with pytest.raises(CheckpointError, match="is not a checkpoint of this model"):
        load_weights(model, file)
    report = compare_weights(model, file)
    assert set(report.loaded) == kept
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_a_data_parallel_model(tmp_path):
    saved = {f"module.{name}": torch.ones_like(value) for name, value in Detector().state_dict().items()}
    model = Detector()
    load(tmp_path, {"model": saved}, model).check_complete()
    assert model.backbone["bottom_up"].weight.sum() == 8


def test_the_average_is_what_is_evaluated(tmp_path):
    model, file = nn.BatchNorm1d(2), tmp_path / "run.pth"
    average = AveragedModel(nn.BatchNorm1d(2), use_buffers=True)
    own = {name: torch.full_like(value, 3) for name, value in model.state_dict().items()}
    for expected in (3, 1):  # before the first update, and after it
        torch.save({"model": own, "ema": average.state_dict()}, file)
        report = load_evaluated_weights(model, file)
        assert model.weight.tolist() == [expected] * 2
        assert report.share() == 1
        assert not report.missing
        average.update_parameters(nn.BatchNorm1d(2))
    torch.save({"model": own, "ema": {"weight": torch.ones(1)}}, file)  # not an average of ours
    load_evaluated_weights(model, file)
    assert model.weight.tolist() == [3, 3]


# ------------------------------------------------------------------------------ a detector's start


def start(tmp_path, saved, model, check=LoadReport.check_start, **options):
    file = tmp_path / "classifier.pth"
    torch.save({"model": saved}, file)
    return load_weights(model, file, start=True, check=check, **options)


class WithResNet(nn.Module):
    """As detectors with FPN hold their backbone."""

    def __init__(self, **options):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": small_resnet(image_size=48, **options)})
        self.head = nn.Linear(2, 2)


def small_resnet(operator="lesa", **options):
    return build_lesa_resnet(
        operator, base_channels=8, stem_channels=8, num_heads=4, blocks=[1, 1, 2, 1], **options
    )


def randomised(model):
    return {name: torch.randn(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("operator", ["conv", "self_attention", "static_lesa", "lesa"])
def test_a_detector_starts_from_a_classifier(tmp_path, operator, prefix):
    weights = randomised(small_resnet(operator, image_size=32, num_classes=3))
    model = WithResNet(operator=operator)
    report = start(tmp_path, {prefix + name: value for name, value in weights.items()}, model)
    ours = model.backbone["bottom_up"].state_dict()
    plain = {name for name, value in weights.items() if name in ours and ours[name].shape == value.shape}
    for name in plain:
        assert torch.equal(ours[name].float(), weights[name].to(ours[name].dtype).float()), name
    absent = [name for name in report.missing if name.startswith("backbone.")]
    assert all(".positions.rel_" in name for name in absent)
    assert bool(absent) == (operator != "conv") == bool(report.converted)
    loaded, total = report.convolutions()
    assert loaded == total == sum(value.dim() == 4 for value in ours.values())
    assert report.unexpected == []
    assert set(report.dropped) >= {f"{prefix}linear.weight", f"{prefix}linear.bias"}


def test_deformable_layers_start_with_their_own_offsets(tmp_path):
    weights = randomised(small_resnet(image_size=32, num_classes=3))
    report = start(tmp_path, weights, WithResNet(deformable=True))
    assert {name.rpartition(".")[2] for name in report.missing if "offset" in name} == {"weight", "bias"}
    loaded, total = report.convolutions()
    assert loaded < total


def test_report_lists_every_tensor(tmp_path):
    weights = randomised(small_resnet(image_size=32, num_classes=3))
    model = WithResNet()
    report = start(tmp_path, weights, model)
    report.save(tmp_path / "weights.txt")
    text = (tmp_path / "weights.txt").read_text()
    assert text.startswith(report.summary())
    for name in [*model.state_dict(), "linear.weight"]:
        assert f"{name} " in text
    assert "head.weight" in report.missing
    assert text.count("converted: ") == len(report.converted) > 0


@pytest.mark.parametrize("origin", ["classifier", "detector"])
def test_tables_of_another_size_are_interpolated(tmp_path, origin):
    """Those of a detector always, those of a classifier if that is asked for."""
    classes = 3 if origin == "classifier" else None
    weights = randomised(small_resnet("attention_augmentation", image_size=32, num_classes=classes))
    prefix = "" if classes else "backbone.bottom_up."
    model = WithResNet(operator="attention_augmentation")
    given = {prefix + name: value for name, value in weights.items()}
    report = start(tmp_path, given, model, keep_positions=classes is not None)
    name = "res4.1.conv2.positions.rel_width"
    ours = model.backbone["bottom_up"].state_dict()[name]
    assert (len(weights[name]), len(ours)) == (3, 5)
    torch.testing.assert_close(ours[::2], weights[name])
    torch.testing.assert_close(ours[1], weights[name][:2].mean(0))
    assert report.converted[f"backbone.bottom_up.{name}"] == "interpolated from 3 to 5 offsets"
    assert report.mismatched == {}


def test_tables_of_a_classifier_are_not_used(tmp_path):
    weights = randomised(small_resnet(image_size=32, num_classes=3, positions="decomposed"))
    model = WithResNet()
    name = "backbone.bottom_up.res4.1.conv2.binary.positions.rel_width"
    before = model.state_dict()[name].clone()
    report = start(tmp_path, weights, model)
    assert name in report.missing
    assert "fresh" in report.dropped["res4.1.conv2.binary.positions.rel_width"]
    assert torch.equal(model.state_dict()[name], before)


def test_a_converted_start_loads_as_the_classifier_does(tmp_path):
    weights = randomised(small_resnet(image_size=32, num_classes=3))
    direct, converted = WithResNet(), WithResNet()
    converted.load_state_dict(direct.state_dict())
    start(tmp_path, weights, direct)
    report = start(tmp_path, classifier_to_detector(weights).weights, converted)
    assert all(".positions." in name for name in report.missing if name.startswith("backbone."))
    torch.testing.assert_close(converted.state_dict(), direct.state_dict())


@pytest.mark.parametrize("content", [[1], torch.ones(2), {"model": [1]}, {"model": {"a": 1}}, {"a": 1}])
def test_files_without_weights_are_one_error(tmp_path, content):
    with pytest.raises(CheckpointError, match=r"holds no weights: expected tensors by name"):
        load(tmp_path, content, Detector())


def test_pickles_without_arrays_are_refused(tmp_path):
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps({"model": {"a": [1]}}))
    with pytest.raises(CheckpointError, match=r"R-50\.pkl holds no weights: .*'a' of type list"):
        load_weights(Detector(), file)


def test_counters_that_a_file_lacks_are_not_called_loaded(tmp_path):
    model = nn.BatchNorm1d(2)
    saved = {name: value for name, value in model.state_dict().items() if name != "num_batches_tracked"}
    report = load(tmp_path, {"model": saved}, model)
    assert set(report.missing) == {"num_batches_tracked"}
    report.check_complete()  # files of before there were counters


def test_resuming_takes_no_classifier(tmp_path):
    """A start may come from another kind of model, the continuation of a run may not."""
    weights = randomised(small_resnet(image_size=32, num_classes=3))
    file = tmp_path / "classifier.pth"
    torch.save({"model": weights}, file)
    with pytest.raises(CheckpointError, match="is not a checkpoint of this model"):
        load_weights(WithResNet(), file)
    with pytest.raises(CheckpointError, match="cannot start this model"):
        start(tmp_path, weights, WithResNet(operator="conv"))


def test_an_operators_own_weight_is_no_convolution(tmp_path):
    """It may be called as the convolution in its place would be."""

    class Plain(SlotOperator):
        def build(self, norm):
            self.weight = nn.Parameter(torch.randn(self.out_channels, self.in_channels, 1, 1))

        def combine(self, x):
            return nn.functional.conv2d(x, self.weight)

    options = dict(base_channels=8, stem_channels=8, blocks=(1, 1, 2, 1), num_heads=4, num_classes=3)
    model = nn.ModuleDict({"backbone": build_lesa_resnet(Plain, **options)})
    report = load_weights(model, "own.pth", start=True, weights=model.state_dict())
    assert not report.slots
    assert not report.missing


class WithImages(nn.Module):
    """What the images of a model are, and its backbone."""

    def __init__(self, mean, std):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": build_lesa_resnet("conv", **SMALL_NETWORK)})
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, image):
        return self.backbone["bottom_up"]((image - self.pixel_mean) / self.pixel_std)["res2"]


SMALL_NETWORK = dict(base_channels=8, stem_channels=8, blocks=(1, 1, 2, 1))
RGB = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
BGR = ([103.53, 116.28, 123.675], [1.0, 1.0, 1.0])


def test_a_classifier_is_converted_to_the_images_of_the_model():
    """detectron2's models take BGR, not divided; torchvision's weights are for RGB."""
    classifier = build_lesa_resnet("conv", **SMALL_NETWORK, num_classes=3)
    file = to_official(classifier.state_dict())
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()
    outputs = []
    for mean, std in (RGB, BGR):
        model = WithImages(mean, std).eval()
        report = load_weights(model, "resnet50.pth", start=True, weights=dict(file))
        is_bgr = mean[0] < mean[-1]
        assert ("for the images of this model" in report.table()) == is_bgr
        outputs.append(model(image.flip(1) if is_bgr else image))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)


def test_a_classifier_whose_images_are_unknown_is_refused_for_bgr():
    classifier = build_lesa_resnet("conv", **SMALL_NETWORK, num_classes=3)
    ours = {f"backbone.{name}": value for name, value in classifier.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"own\.pth: this model's images have .* BGR"):
        load_weights(WithImages(*BGR), "own.pth", start=True, weights=ours)
    assert load_weights(WithImages(*RGB), "own.pth", start=True, weights=ours).share() == 1


def test_a_model_without_values_can_be_compared(tmp_path):
    """As the doctor does; a classifier of convolutions starts a detector of ours."""
    options = dict(base_channels=8, stem_channels=8, blocks=(1, 1, 2, 1), num_heads=4)
    torch.save(
        to_official(build_lesa_resnet("conv", **options, num_classes=3).state_dict()), tmp_path / "conv.pth"
    )
    with torch.device("meta"):
        model = nn.ModuleDict(
            {"backbone": nn.ModuleDict({"bottom_up": build_lesa_resnet("lesa", **options)})}
        )
        model.register_buffer("pixel_mean", torch.zeros(3, 1, 1), persistent=False)
        model.register_buffer("pixel_std", torch.ones(3, 1, 1), persistent=False)
    report = compare_weights(model, tmp_path / "conv.pth", start=True)
    report.check_start()
    assert [slot.name for slot in report.slots] == ["res4.1.conv2", "res5.0.conv2"]
    assert all(value.is_meta for value in model.state_dict().values())
