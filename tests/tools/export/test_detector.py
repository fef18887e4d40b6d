"""Whole detectors, traced: the files against the detectors, by our command and in the manner of detectron2's tool."""

import io
import subprocess
import sys

import pytest
import torch
from detectron2.export import TracingAdapter
from runs import tiny_options
from small_detector import small_detector
from torch import nn

from lesa_d2.cli import main
from lesa_d2.errors import ExportError
from lesa_d2.tools.export import WholeDetector, export_detector
from lesa_d2.tools.export.detector import compare_detectors

SIZES = [(64, 96), (32, 20), (101, 200), (208, 96)]


def inference_of_detectron2s_tool(model, inputs):
    """What tools/deploy/export_model.py traces."""
    return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]


def test_detectron2s_export_by_tracing():
    """Exact at every size, once saved and loaded, whatever the backend."""
    model = small_detector(
        "model.backbone.bottom_up.backend=blockwise",
        "model.roi_heads.box_predictor.test_score_thresh=0.0",
    )
    image = torch.rand(3, *SIZES[0]) * 255
    adapter = TracingAdapter(model, [{"image": image}], inference_of_detectron2s_tool).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(adapter, (image,), check_trace=False), file)
    file.seek(0)
    traced = torch.jit.load(file)
    for size in SIZES:
        image = torch.rand(3, *size) * 255
        with torch.no_grad(), torch.jit.optimized_execution(False):
            expected, received = adapter(image), traced(image)
        assert len(expected[0]) == 100
        torch.testing.assert_close(received, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export_detector(model, tmp_path_factory.mktemp("export"), (96, 128))


def test_the_file_needs_only_torch(exported):
    code = (
        "import sys\n"
        "for name in ('lesa_d2', 'detectron2', 'fvcore'): sys.modules[name] = None\n"
        "import torch, torchvision\n"
        f"found = torch.jit.load({str(exported.file)!r})(torch.full((3, 70, 90), 100.0))\n"
        "print({name: t.shape[1:] for name, t in sorted(found.items())})"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "'boxes': torch.Size([4])" in result.stdout
    assert "'masks': torch.Size([28, 28])" in result.stdout


def test_the_comparison_is_of_five_sizes(exported):
    assert exported.file.name == "detector.ts"
    assert len(exported.comparison.differences) == 5
    assert set(exported.comparison.differences[1, 96, 128]) == {"boxes", "scores", "classes", "masks"}
    assert exported.comparison.largest < 1e-5


def test_a_detector_that_finds_nothing_is_compared_without_threshold(tmp_path):
    model = small_detector("model.roi_heads.box_predictor.test_score_thresh=0.99")
    exported = export_detector(model, tmp_path, (64, 64), dtype="uint8")
    assert all(max(row.values()) < 1e-5 for row in exported.comparison.differences.values())
    assert any(max(row.values()) > 0 for row in exported.comparison.differences.values())
    found = torch.jit.load(str(exported.file))(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert found["boxes"].shape == (0, 4)
    assert model.roi_heads.box_predictor.test_score_thresh == 0.99


class Changed(nn.Module):
    """Runs a detector and changes what it gives."""

    def __init__(self, detector, change):
        super().__init__()
        self.detector, self.change = detector, change

    def forward(self, image):
        return self.change(self.detector(image))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda out: {**out, "scores": out["scores"] + 1e-3}, "differs by up to 1.0e-03"),
        (lambda out: {**out, "masks": out["masks"].flip(2)}, "is not the model"),
        (lambda out: {name: value[1:] for name, value in out.items()}, "differs by up to inf"),
        (lambda out: out["keypoints"], "does not run on an image of 64×64"),
    ],
)
def test_another_result_is_an_error(change, words, model):
    detector = WholeDetector(model, torch.zeros(3, 64, 64))
    with pytest.raises(ExportError, match=words):
        compare_detectors(detector, Changed(detector, change), (64, 64), torch.float32)


def test_the_order_of_detections_does_not_matter(model):
    detector = WholeDetector(model, torch.zeros(3, 64, 64))
    reverse = Changed(detector, lambda out: {name: value.flip(0) for name, value in out.items()})
    comparison, found = compare_detectors(detector, reverse, (64, 64), torch.float32)
    assert found
    assert comparison.largest == 0


def test_the_file_takes_rgb_whatever_the_model_wants():
    image = torch.rand(3, 64, 64) * 255
    rgb, bgr = (small_detector(f"model.input_format={name}") for name in ("RGB", "BGR"))
    with torch.no_grad():
        expected, received = WholeDetector(rgb, image)(image.flip(0)), WholeDetector(bgr, image)(image)
    assert all(torch.equal(received[name], value) for name, value in expected.items())


def test_command_line(tmp_path, capsys):
    options = [*tiny_options(tmp_path), "model.backbone.bottom_up.operator=conv"]
    common = ["export", "--config-file", "quickstart_lesa", "--untrained", "--output", str(tmp_path / "out")]
    assert main([*common, "--whole-detector", "--image-size", "64", "96", *options]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "out/detector.ts") in printed
    assert "64×96" in printed
    with pytest.raises(SystemExit):
        main([*common, "--format", "onnx", "--whole-detector", *options])
    assert "--whole-detector writes TorchScript alone" in capsys.readouterr().err


def test_what_is_no_detector(tmp_path):
    with pytest.raises(ExportError, match="expected a detector of detectron2, got Linear"):
        export_detector(nn.Linear(1, 1), tmp_path)
    with pytest.raises(ExportError, match="unknown 'int8'"):
        export_detector(small_detector(), tmp_path, dtype="int8")
