"""A whole detector as a TorchScript file, traced by detectron2's ``TracingAdapter`` and compared with the detector."""

import copy
from pathlib import Path
from typing import Any

import torch
from detectron2.export import TracingAdapter
from torch import Tensor, nn

from ...errors import ExportError
from ...storage import whole_file
from .backbone import DTYPES, Exported
from .check import Comparison, check_tolerance, smooth_images

OUTPUTS = {"boxes": "pred_boxes", "scores": "scores", "classes": "pred_classes", "masks": "pred_masks"}
"""Names of the outputs, and of detectron2's fields; masks where the detector has them."""


class WholeDetector(nn.Module):
    """Detect the objects of one RGB image, in evaluation mode on the CPU.

    Args:
        model: a detector of detectron2 with a feature pyramid, two-stage or dense, which is copied and not changed.
        example: an image for the adapter, (3, H, W).

    Raises:
        ExportError: the model is not a detector of boxes.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        if not hasattr(model, "preprocess_image") or not hasattr(model, "backbone"):
            raise ExportError(f"expected a detector of detectron2, got {type(model).__name__}")
        self.is_bgr = getattr(model, "input_format", "RGB") == "BGR"
        detector = copy.deepcopy(model).eval().cpu()
        self.adapter = TracingAdapter(detector, [{"image": example}], _detect)
        self.eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the detections of an image.

        Args:
            image: (3, H, W), RGB values from 0 to 255, of any type and size.

        Returns:
            ``boxes`` (R, 4), x0, y0, x1, y1 in pixels; ``scores`` (R,); ``classes`` (R,); and of detectors with
            masks ``masks`` (R, S, S), the probabilities on a grid that covers the box.
        """
        image = image.float()
        outputs = self.adapter(image.flip(0) if self.is_bgr else image)
        return self.adapter.outputs_schema(outputs)


def _detect(model: Any, inputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Run a detector without resizing of its results, as detectron2's own export does."""
    if hasattr(model, "roi_heads"):
        fields = model.inference(inputs, do_postprocess=False)[0].get_fields()
    else:
        fields = model(inputs)[0]["instances"].get_fields()
    found = {name: fields[key] for name, key in OUTPUTS.items() if key in fields}
    if not {"boxes", "scores", "classes"} <= found.keys():
        raise ExportError(f"expected a detector of boxes, got one whose results are {sorted(fields)}")
    found["boxes"] = found["boxes"].tensor
    if "masks" in found:
        found["masks"] = found["masks"][:, 0]
    return found


def export_detector(
    model: nn.Module, folder: str | Path, image_size: tuple[int, int] = (256, 320), dtype: str = "float32"
) -> Exported:
    """Write ``folder/detector.ts``, a TorchScript file, read it again and compare it with the detector.

    The file takes one image (3, H, W) of any size; :class:`WholeDetector` says what it gives.  It is compared at the
    traced size and four others.  Where the detector finds nothing in the images of the comparison, a copy whose
    threshold of the scores is zero is compared instead, traced in the same way.

    Args:
        model: a detector, which is not changed.
        folder: an existing folder for the file.
        image_size: (H, W) of the image that is traced.
        dtype: of the image, "float32" or "uint8"; its values are RGB from 0 to 255 in both.

    Raises:
        ExportError: the model cannot be traced, or the check fails; there is no file then.
    """
    if dtype not in DTYPES:
        raise ExportError(f"unknown {dtype!r}; expected one of {', '.join(DTYPES)}")
    file = Path(folder) / "detector.ts"
    try:
        comparison, found = _export(model, file, image_size, DTYPES[dtype])
        if not found:
            comparison, _ = _export(_finding_more(model), file, image_size, DTYPES[dtype])
            _write(model, file, image_size, DTYPES[dtype])
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return Exported(file, comparison)


def _export(
    model: nn.Module, file: Path, image_size: tuple[int, int], dtype: torch.dtype
) -> tuple[Comparison, int]:
    """Write the file and compare it; return the comparison and the number of detections."""
    detector = _write(model, file, image_size, dtype)
    return compare_detectors(detector, torch.jit.load(str(file)), image_size, dtype)


def _write(model: nn.Module, file: Path, image_size: tuple[int, int], dtype: torch.dtype) -> WholeDetector:
    """Trace the detector into the file."""
    example = _image(image_size, dtype)
    detector = WholeDetector(model, example)
    try:
        with torch.no_grad():
            traced = torch.jit.trace(detector, (example,), strict=False, check_trace=False)
    except ExportError:
        raise
    except Exception as error:  # the exceptions of tracing depend on the layer
        raise ExportError(
            f"torch.jit.trace cannot trace this detector: {type(error).__name__}: {error}"
        ) from error
    with whole_file(file) as unfinished:
        torch.jit.save(traced, str(unfinished))
    return detector


def _finding_more(model: nn.Module) -> nn.Module:
    """Return a copy of the detector that returns detections of any score, from few proposals."""
    model = copy.deepcopy(model)
    modules: list[Any] = list(model.modules())
    for module in modules:
        if hasattr(module, "post_nms_topk"):
            module.post_nms_topk = dict.fromkeys((True, False), 50)
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0
    return model


def compare_detectors(
    detector: WholeDetector, run: nn.Module, image_size: tuple[int, int], dtype: torch.dtype
) -> tuple[Comparison, int]:
    """Compare ``run`` with the detector at five sizes; return the comparison and the number of detections.

    Differences are shares of the larger side for boxes, and absolute for scores, classes and masks.

    Raises:
        ExportError: the file does not run at one of the sizes, or its results differ from the detector's.
    """
    differences, found = {}, 0
    for height, width in _sizes(image_size):
        image = _image((height, width), dtype)
        # Not optimised: that would take longer than the run, again for every size.
        with torch.no_grad(), torch.jit.optimized_execution(False):
            expected = detector(image)
            try:
                received = run(image)
            except Exception as error:  # whatever TorchScript raises
                raise ExportError(
                    f"the exported file does not run on an image of {height}×{width}: {error}"
                ) from error
        found += len(expected["scores"])
        differences[1, height, width] = _differences(received, expected, max(height, width))
    comparison = Comparison(differences)
    check_tolerance(comparison)
    return comparison, found


def _sizes(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the traced size, a small square, a wide and a high rectangle, and a larger size."""
    height, width = image_size
    return [image_size, (64, 64), (97, 231), (224, 97), (height + 41, width + 83)]


def _image(size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return smooth_images((1, *size), dtype)[0]


def _differences(received: dict[str, Tensor], expected: dict[str, Tensor], side: int) -> dict[str, float]:
    """Return the largest difference of every output, of detections in any order; infinite where some are missing."""
    same = received.keys() == expected.keys() and all(
        received[name].shape == value.shape for name, value in expected.items()
    )
    if not same:
        return dict.fromkeys(expected, float("inf"))
    scale = {"boxes": side}
    values = {
        name: [
            t[name].double().flatten(1) if t[name].dim() > 1 else t[name].double()[:, None]
            for t in (received, expected)
        ]
        for name in expected
    }
    # Scores that are equal up to rounding may come in another order.
    keys = [
        torch.cat([values["classes"][i], values["scores"][i], values["boxes"][i] / side], 1) for i in (0, 1)
    ]
    order = torch.cdist(keys[1], keys[0], p=1).argmin(1) if len(keys[0]) else torch.arange(0)
    if len(order.unique()) < len(order):
        return dict.fromkeys(expected, float("inf"))
    return {
        name: float((ours[order] - theirs).abs().max() / scale.get(name, 1)) if theirs.numel() else 0.0
        for name, (ours, theirs) in values.items()
    }
