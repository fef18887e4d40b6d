"""Exported files against the detector itself."""

import subprocess
import sys

import pytest
import torch
from small_detector import small_detector

from lesa_d2 import model_zoo
from lesa_d2.engine import build_model, load_config
from lesa_d2.errors import ExportError
from lesa_d2.tools.export import FORMATS, FeaturePyramid, export_backbone
from lesa_d2.tools.export import formats as formats_module


def maps_of(model, images):
    """What the detector computes by itself of images (N, 3, H, W)."""
    with torch.no_grad():
        return model.backbone(model.preprocess_image([{"image": image} for image in images]).tensor)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export_backbone(model, tmp_path_factory.mktemp("export"), image_size=(128, 128))


@pytest.fixture(scope="module")
def runs(exported):
    """What another program would run, by format."""
    return {
        name: kind.read(result.file) for (name, kind), result in zip(FORMATS.items(), exported, strict=True)
    }


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(1, 3, 128, 128), (2, 3, 96, 160), (5, 3, 288, 96), (1, 3, 512, 512)])
def test_files_give_the_detectors_maps(model, runs, name, shape):
    image = torch.rand(shape) * 255
    received = runs[name](image)
    expected = maps_of(model, image)
    assert list(received) == list(expected) == ["p2", "p3", "p4", "p5", "p6"]
    for level, value in expected.items():
        torch.testing.assert_close(received[level], value, rtol=1e-4, atol=1e-4)


def test_names_and_axes_of_the_onnx_file(exported):
    import onnx

    file = onnx.load(exported[1].file)
    onnx.checker.check_model(file)
    (image,) = file.graph.input
    axes = [axis.dim_param or axis.dim_value for axis in image.type.tensor_type.shape.dim]
    assert (image.name, axes) == ("image", ["batch", 3, "height", "width"])
    assert [output.name for output in file.graph.output] == ["p2", "p3", "p4", "p5", "p6"]
    description = {entry.key: entry.value for entry in file.metadata_props}["image"]
    assert "RGB from 0 to 255, H and W multiples of 32 of at least 96" in description


def test_the_torch_file_needs_only_torch(exported):
    """And torchvision's deformable convolution."""
    code = (
        "import sys\n"
        "for name in ('lesa_d2', 'detectron2', 'fvcore'): sys.modules[name] = None\n"
        "import torch, torchvision\n"
        f"run = torch.export.load({str(exported[0].file)!r}).module()\n"
        "print(tuple(run(torch.zeros(2, 3, 96, 128))['p2'].shape))"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "(2, 64, 24, 32)", result.stderr


def test_comparisons_are_of_rounding(exported):
    assert [result.file.name for result in exported] == ["backbone.pt2", "backbone.onnx"]
    assert all(result.comparison.largest < 1e-5 for result in exported)


@pytest.mark.parametrize("operator", ["conv", "self_attention", "attention_augmentation"])
def test_other_operators(operator, tmp_path):
    model = small_detector(f"model.backbone.bottom_up.operator={operator}")
    (result,) = export_backbone(model, tmp_path, ["torch"], (96, 128))
    assert result.comparison.largest < 1e-5


def test_bytes(tmp_path):
    model = small_detector("model.backbone.bottom_up.operator=conv")
    (result,) = export_backbone(model, tmp_path, ["onnx"], (96, 128), dtype="uint8")
    image = torch.randint(256, (2, 3, 160, 128), dtype=torch.uint8)
    expected = maps_of(model, image)
    for name, value in FORMATS["onnx"].read(result.file)(image).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


def test_the_model_stays_as_it_is():
    model = small_detector("model.backbone.bottom_up.backend=blockwise").train()
    pyramid = FeaturePyramid(model)
    assert model.training
    assert model.backbone.training
    backends = {module.backend for module in model.modules() if hasattr(module, "backend")}
    assert backends == {"blockwise"}
    assert not pyramid.training


def test_the_input_is_rgb_whatever_the_model_wants():
    image = torch.rand(1, 3, 96, 96) * 255
    for input_format, given in (("RGB", image), ("BGR", image.flip(1))):
        model = small_detector(f"model.input_format={input_format}", "model.pixel_mean=[1.0,50.0,100.0]")
        expected = maps_of(model, given)
        with torch.no_grad():
            received = FeaturePyramid(model)(image)
        assert all(torch.equal(received[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_a_file_that_is_not_the_model_is_removed(name, model, tmp_path, monkeypatch):
    kind = FORMATS[name]
    monkeypatch.setattr(type(kind), "write", lambda self, program, pyramid, file: file.write_bytes(b"x"))
    monkeypatch.setattr(formats_module, "trace", lambda *arguments: None)
    monkeypatch.setattr("lesa_d2.tools.export.backbone.trace", lambda *arguments: None)
    other = FeaturePyramid(small_detector("train.seed=5"))
    monkeypatch.setattr(type(kind), "read", lambda self, file: other)
    with pytest.raises(ExportError, match="is not the model"):
        export_backbone(model, tmp_path, [name], (96, 96))
    assert list(tmp_path.iterdir()) == []


def no_tracing(*arguments):
    raise AssertionError("traced although it was known to fail")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": (96, 100)}, "96×100 does not fit.*multiples of 32 of at least 96"),
        ({"image_size": (64, 96)}, "64×96 does not fit"),
        ({"formats": ["tflite"]}, "unknown 'tflite'; expected one of torch, onnx"),
        ({"dtype": "int8"}, "unknown 'int8'; expected one of float32, uint8"),
    ],
)
def test_bad_arguments(options, words, model, tmp_path, monkeypatch):
    monkeypatch.setattr("lesa_d2.tools.export.backbone.trace", no_tracing)
    with pytest.raises(ExportError, match=words):
        export_backbone(model, tmp_path, **options)


def test_missing_packages_are_named_before_tracing(model, tmp_path, monkeypatch):
    monkeypatch.setattr("lesa_d2.tools.export.backbone.trace", no_tracing)
    monkeypatch.setattr(formats_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="-m pip install onnx onnxscript onnxruntime"):
        export_backbone(model, tmp_path)


def test_an_onnxruntime_without_deformable_convolutions(tmp_path, monkeypatch):
    import onnxruntime

    def session(*arguments, **options):
        raise RuntimeError("NOT_IMPLEMENTED")

    monkeypatch.setattr("lesa_d2.tools.export.backbone.trace", no_tracing)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(ExportError, match=r"deformable convolutions are not supported.*--format torch"):
        export_backbone(small_detector("model.backbone.bottom_up.deformable=True"), tmp_path)


def test_a_classifier_has_no_pyramid():
    with pytest.raises(ExportError, match=r"expected a detector.*got ImageClassifier"):
        FeaturePyramid(model_zoo.get("quickstart_classifier"))


def test_what_cannot_be_traced_is_one_error(model, tmp_path, monkeypatch):
    cfg = load_config("quickstart_lesa", ["train.device=cpu"])
    model = build_model(cfg)
    monkeypatch.setattr(type(model.backbone), "forward", lambda self, x: {"p2": x[: int(x.sum())]})
    with pytest.raises(ExportError, match=r"torch\.export cannot trace this backbone"):
        export_backbone(model, tmp_path, ["torch"], (96, 96))
