"""Checks on a GPU: the attention against its definition at a config's own sizes, then how long a training step takes.

torch and detectron2 are imported inside the checks: where they are missing, the doctor has to say so.
"""

import contextlib
import copy
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .findings import Finding

if TYPE_CHECKING:
    import torch
    from torch import nn

WARM_UP, TIMED = 3, 12
"""Steps that compile kernels and fill caches, and steps that are timed."""
MOST_QUERIES = 1024
"""Of a map, so that the definition's logits fit into memory."""
PACKAGE = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class Attended:
    """A map on which a model attends.

    Attributes:
        stage: the first part of the module's path that says where it is.
        size: height and width.
        channels: of a head, for keys and for values.
        backend: of the module.
    """

    stage: str
    size: tuple[int, int]
    channels: tuple[int, int]
    backend: str


def check_gpu(cfg: Any, steps: int = TIMED) -> list[Finding]:
    """Train some steps of a config on its device; check the attention at the sizes that occur, and time the steps."""
    import torch

    from ...engine.device import settle
    from ...engine.training import make_train_loader, make_trainer

    if torch.device(cfg.train.device).type == "cuda" and not torch.cuda.is_available():
        return [
            Finding(
                "gpu",
                "PyTorch finds none",
                "run this where the training will run, or with train.device=cpu to check the attention on the CPU",
            )
        ]
    cfg = copy.deepcopy(cfg)
    settle(cfg)
    trainer, _ = make_trainer(cfg)
    trainer.data_loader = make_train_loader(cfg, 0)
    trainer.output_dir = None  # nothing is written
    with attended_maps(trainer.model) as maps:
        trainer.train(0, 1)
    findings = [check_attention(one, trainer.device, trainer.precision) for one in dict.fromkeys(maps)]
    return [*findings, time_steps(trainer, cfg.train.max_iter, steps)]


@contextlib.contextmanager
def attended_maps(model: "nn.Module") -> Iterator[list[Attended]]:
    """Give the maps on which the model attends while open."""
    maps: list[Attended] = []
    handles = []

    def note(path: str, module: Any) -> Any:
        stage = next((part for part in path.split(".") if part.startswith("res")), path)

        def hook(_: Any, inputs: tuple) -> None:
            shape = inputs[0].shape
            size = tuple(shape[1:3]) if getattr(module, "is_channels_last", False) else tuple(shape[2:])
            maps.append(Attended(stage, size, module.head_channels, module.backend))

        return hook

    for path, module in model.named_modules():
        if hasattr(module, "head_channels"):
            handles.append(module.register_forward_pre_hook(note(path, module)))
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def check_attention(one: Attended, device: "torch.device", dtype: "torch.dtype") -> Finding:
    """Compare output and gradients of the attention with the definition in float64, on random inputs."""
    import torch

    from ...layers.attention import describe_backend

    inputs = random_inputs(one, device, dtype)
    how = describe_backend(one.backend, device, dtype, one.channels)
    name = f"attention {one.stage}, {one.size[0]}×{one.size[1]}"
    exact, _ = results([t.double() for t in inputs], "reference")
    rounded, seconds = results(inputs, one.backend)
    error = max(
        float((ours.double() - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6))
        for ours, theirs in zip(rounded, exact, strict=True)
    )
    limit = {torch.float32: 2e-3 if torch.get_float32_matmul_precision() == "high" else 1e-4}.get(dtype, 5e-2)
    state = f"{how}; error {error:.1e} of the largest number, {1e3 * seconds:.1f} ms"
    if error < limit:
        return Finding(name, state)
    fix = "use model.backbone.bottom_up.backend=blockwise, and report this with the output of --bug-report"
    return Finding(name, f"{state}: WRONG, expected less than {limit:g}", fix)


def random_inputs(one: Attended, device: "torch.device", dtype: "torch.dtype") -> list:
    """Return q, k, v, col_bias and row_bias of one image and head; vectors in ``dtype``, biases in float32."""
    import torch

    height, width = one.size
    keys, queries = height * width, min(height * width, MOST_QUERIES)
    numbers = torch.Generator().manual_seed(0)
    shapes = [
        (queries, one.channels[0]),
        (keys, one.channels[0]),
        (keys, one.channels[1]),
        (queries, width),
        (queries, height),
    ]
    kinds = [torch.float32, dtype, dtype, torch.float32, torch.float32]
    return [
        torch.randn(1, 1, *shape, generator=numbers).mul(0.5).to(device, kind)
        for shape, kind in zip(shapes, kinds, strict=True)
    ]


def results(inputs: list, backend: str) -> tuple[list, float]:
    """Return output and gradients of the sum of squares, and the seconds of the second computation."""
    import torch

    from ...layers.attention import relative_attention

    seconds = 0.0
    for _ in range(2):
        q, k, v, col_bias, row_bias = leaves = [t.detach().requires_grad_() for t in inputs]
        start = _now(inputs[0].device)
        out = relative_attention(q, k, v, col_bias, row_bias, backend)
        gradients = torch.autograd.grad(out.float().square().sum(), leaves)
        seconds = _now(inputs[0].device) - start
    return [out.detach(), *gradients], seconds


def _now(device: "torch.device") -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def time_steps(trainer: Any, max_iter: int, steps: int) -> Finding:
    """Time training steps, the share of the loader, and count what waits for the device in a step."""
    times: list[float] = []
    step = trainer.run_step

    def run_step() -> None:
        start = _now(trainer.device)
        step()
        times.append(_now(trainer.device) - start)

    trainer.run_step = run_step
    with waits(trainer.device) as counted:
        trainer.train(1, 1 + WARM_UP + steps)
    del trainer.run_step
    seconds = statistics.median(times[WARM_UP:])
    loading = [value for value, _ in trainer.storage.history("data_time").values()][WARM_UP:]
    share = statistics.median(loading) / seconds
    hours = seconds * max_iter / 3600
    state = f"{seconds:.3f} s a step, {share:.0%} of it for data; {max_iter:,} steps take {hours:.1f} hours"
    if counted:
        number = {where: count / len(times) for where, count in counted.items()}
        state += f"; waits for the GPU a step: {number.get('ours', 0):.0f} ours, {number.get('others', 0):.0f} others'"
    fix = "the GPU waits for data: raise dataloader.train.num_workers" if share > 0.25 else ""
    return Finding("training step", state, fix)


@contextlib.contextmanager
def waits(device: "torch.device") -> Iterator[Counter]:
    """Count the operations that wait for a GPU while open, by PyTorch's warnings: "ours" and "others"."""
    import torch

    counted: Counter = Counter()
    if device.type != "cuda":
        yield counted
        return
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield counted
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in found:
        if "synchroniz" in str(warning.message):
            counted["ours" if warning.filename.startswith(PACKAGE) else "others"] += 1
