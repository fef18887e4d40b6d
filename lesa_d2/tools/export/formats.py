"""The file formats: how files are written, read again and run."""

import importlib.util
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ...errors import ExportError
from ...layers.deform import DeformableConv2d
from ...storage import whole_file
from .pyramid import FeaturePyramid

Run = Callable[[Tensor], dict[str, Tensor]]


class Format(ABC):
    """Write and read files of one format."""

    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages that have to be installed."""

    def check_can_export(self, pyramid: FeaturePyramid) -> None:
        """Check what is needed to export ``pyramid`` in this format.

        Raises:
            ExportError: a package is missing, or the format cannot hold a part of the model.
        """
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(
                f"the format {self.suffix.removeprefix('.')!r} needs {', '.join(missing)}: "
                f"{sys.executable} -m pip install {' '.join(missing)}"
            )

    @abstractmethod
    def write(self, program: ExportedProgram, pyramid: FeaturePyramid, file: Path) -> None:
        """Write the traced ``pyramid`` into ``file``."""

    @abstractmethod
    def read(self, file: Path) -> Run:
        """Read a file, and return a function that runs it."""


class TorchFormat(Format):
    """Write and read the archives of ``torch.export``."""

    suffix = ".pt2"

    def write(self, program: ExportedProgram, pyramid: FeaturePyramid, file: Path) -> None:
        """Write the traced ``pyramid`` into ``file``."""
        with whole_file(file) as unfinished:
            torch.export.save(program, unfinished)

    def read(self, file: Path) -> Run:
        """Read a file, and return a function that runs it."""
        return torch.export.load(file).module()


class OnnxFormat(Format):
    """Write ONNX files, and run them with onnxruntime on the CPU."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def check_can_export(self, pyramid: FeaturePyramid) -> None:
        """Check the packages, and that onnxruntime has every operator of ``pyramid``."""
        super().check_can_export(pyramid)
        if any(isinstance(module, DeformableConv2d) for module in pyramid.modules()):
            _check_deformable()

    def write(self, program: ExportedProgram, pyramid: FeaturePyramid, file: Path) -> None:
        """Write the traced ``pyramid`` into ``file``, with names for its inputs, outputs and open axes."""
        names = list(pyramid.strides)
        with _quiet("onnxscript", "torch.onnx"):
            exported = torch.onnx.export(
                program, dynamo=True, input_names=["image"], output_names=names, verbose=False
            )
        assert exported is not None  # it is None only when a file name is given
        graph = exported.model.graph
        _name_axes(graph.inputs[0], "")
        for name, output in zip(names, graph.outputs, strict=True):
            _name_axes(output, f"_{name}")
        exported.model.metadata_props["image"] = describe_input(pyramid)
        with whole_file(file) as unfinished:
            exported.save(unfinished)

    def read(self, file: Path) -> Run:
        """Read a file, and return a function that runs it."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run(image: Tensor) -> dict[str, Tensor]:
            outputs = session.run(None, {"image": image.numpy()})
            return dict(zip(names, map(torch.from_numpy, outputs), strict=True))

        return run


FORMATS: dict[str, Format] = {"torch": TorchFormat(), "onnx": OnnxFormat()}


def trace(pyramid: FeaturePyramid, example: Tensor) -> ExportedProgram:
    """Trace ``pyramid`` by ``torch.export``, with open batch, height and width.

    Raises:
        ExportError: a layer's Python code depends on the size.
    """
    divisor, least = pyramid.divisor, pyramid.smallest_side // pyramid.divisor
    axes = {
        0: torch.export.Dim("batch", min=1),
        2: divisor * torch.export.Dim("rows", min=least),
        3: divisor * torch.export.Dim("columns", min=least),
    }
    try:
        with torch.no_grad():
            return torch.export.export(pyramid, (example,), dynamic_shapes={"image": axes})
    except Exception as error:  # the exceptions of tracing depend on the layer
        raise ExportError(
            f"torch.export cannot trace this backbone: {type(error).__name__}: {error}\nOperators and "
            "options that are known to work stand in docs/export.md"
        ) from error


def describe_input(pyramid: FeaturePyramid) -> str:
    """Return a description of the input that a file takes."""
    return (
        f"(N, 3, H, W), RGB from 0 to 255, H and W multiples of {pyramid.divisor} of at least "
        f"{pyramid.smallest_side}; pixel means and deviations are applied inside"
    )


def _name_axes(value: Any, suffix: str) -> None:
    """Give the open axes readable names instead of the tracer's symbols."""
    import onnx_ir

    value.shape = onnx_ir.Shape(["batch", value.shape[1], f"height{suffix}", f"width{suffix}"])


def _check_deformable() -> None:
    """Check that this onnxruntime runs deformable convolutions on the CPU.

    Raises:
        ExportError: it does not.
    """
    import onnxruntime
    from onnx import TensorProto, helper

    names = ("x", "weight", "offset")
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in names]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    node = helper.make_node("DeformConv", names, ["y"])
    graph = helper.make_graph([node], "probe", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common type
        raise ExportError(
            f"deformable convolutions are not supported: onnxruntime {onnxruntime.__version__} has no "
            f"DeformConv on the CPU. Install a newer one ({sys.executable} -m pip install --upgrade "
            "onnxruntime), or export with --format torch"
        ) from error


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Log, while open, only errors of these loggers."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
