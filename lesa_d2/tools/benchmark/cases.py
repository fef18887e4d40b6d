"""What is measured: steps of attention, operators, backbones and detectors.

Every function here makes a step: mode "forward" runs without gradients, "training" runs forward and backward.
With a half-precision ``dtype`` modules run under autocast.  All functions can be imported by name, so that a
fresh process can make the same step.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.modeling.backbone.vit import Attention as ViTAttention
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor, nn

from ...config.lazy import lesa_backbones, load_config
from ...layers import OPERATORS, EvalBatchNorm2d
from ...layers.attention import relative_attention
from ...layers.definition import ByDefinition, by_definition
from ...layers.unary import conv3x3
from ...modeling import build_lesa_resnet, use_exact_attention
from .measure import Step, Variant
from .step import generate_inputs, prepare_config

HEADS = 8
PROPOSALS, DETECTIONS = 1000, 100
"""Of a detector that is measured: what the paper's configs keep of an image at most."""
DEFINITION = "definition"
"""What cases take as ``backend`` for operators computed by :mod:`lesa_d2.layers.definition`."""
FLOAT = torch.float32


def make_step(
    mode: str,
    run: Callable[[], Any],
    parameters: list[Tensor],
    device: str = "cpu",
    dtype: torch.dtype = FLOAT,
) -> Step:
    """Return a forward pass without gradients, or forward and backward; ``run`` gives a tensor or a dict of them."""
    autocast = partial(torch.autocast, device, dtype, enabled=dtype != FLOAT)

    def forward() -> Any:
        with torch.no_grad(), autocast():
            return run()

    def train() -> None:
        for p in parameters:
            p.grad = None
        with autocast():
            out = run()
        outs = list(out.values()) if isinstance(out, dict) else [out]
        torch.autograd.backward(outs, [torch.ones_like(o) for o in outs])

    return forward if mode == "forward" else train


def relative(
    mode: str, *, backend: str, side: int, key_dim: int = 16, device: str = "cpu", dtype: torch.dtype = FLOAT
) -> Step:
    """Make attention with decomposed relative logits on a side×side map, values twice as long as keys."""
    positions = side * side
    dims = (key_dim, key_dim, 2 * key_dim)
    vectors = [torch.randn(1, HEADS, positions, d, device=device, dtype=dtype) for d in dims]
    biases = [torch.randn(1, HEADS, positions, side, device=device) for _ in range(2)]
    inputs = [t.requires_grad_(mode == "training") for t in (*vectors, *biases)]
    q, k, v, col_bias, row_bias = inputs
    run = partial(relative_attention, q, k, v, col_bias, row_bias, backend)
    return make_step(mode, run, inputs, device, dtype)


def unbiased(mode: str, *, side: int, dim: int = 32, device: str = "cpu", dtype: torch.dtype = FLOAT) -> Step:
    """Make PyTorch's own attention without any bias, keys as long as values: a practical limit."""
    shape = (1, HEADS, side * side, dim)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    for t in (q, k, v):
        t.requires_grad_(mode == "training")
    return make_step(mode, partial(F.scaled_dot_product_attention, q, k, v), [q, k, v], device, dtype)


def vitdet(
    mode: str, *, exact: bool, side: int, heads: int = 12, device: str = "cpu", dtype: torch.dtype = FLOAT
) -> Step:
    """Make a global attention block of detectron2's ViTDet, heads of 64 channels: its own, or computed by ours."""
    block = ViTAttention(
        64 * heads, heads, use_rel_pos=True, rel_pos_zero_init=False, input_size=(side, side)
    )
    x = torch.randn(1, side, side, 64 * heads, device=device).requires_grad_(mode == "training")
    block = (use_exact_attention(block) if exact else block).to(device)
    return make_step(mode, partial(block, x), [x, *block.parameters()], device, dtype)


def with_stored_statistics(build: Callable[[type[nn.Module]], nn.Module], x: Tensor) -> nn.Module:
    """Build a module with the stored statistics of one batch, which it uses in training too."""
    module, twin = build(EvalBatchNorm2d).to(x.device), build(nn.BatchNorm2d).to(x.device).train()
    twin.load_state_dict(module.state_dict())
    for m in twin.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        twin(x)
    module.load_state_dict(twin.state_dict())
    return module


def make_operator(
    norm: type[nn.Module],
    *,
    operator: str,
    channels: int,
    side: int,
    backend: str,
    positions: str,
    section: str,
) -> nn.Module:
    """Build an operator of the slot, or its "binary" term alone; "conv" is the 3×3 it replaces."""
    if operator == "conv":
        return conv3x3(channels, channels)
    whole = OPERATORS[operator](
        channels,
        channels,
        num_heads=HEADS,
        feat_size=side,
        backend="auto" if backend == DEFINITION else backend,
        positions=positions,
        norm=norm,
    )
    module = whole if section == "whole" else getattr(whole, section)
    return ByDefinition(module) if backend == DEFINITION else module


def operator(
    mode: str,
    *,
    operator: str,
    side: int,
    channels: int = 256,
    backend: str = "auto",
    positions: str = "decomposed",
    section: str = "whole",
    statistics: str = "stored",
    images: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = FLOAT,
) -> Step:
    """Make an operator on side×side maps; ``statistics`` of its norms: "stored" or of the "batch"."""
    x = torch.randn(images, channels, side, side, device=device).requires_grad_(mode == "training")
    build = partial(
        make_operator,
        operator=operator,
        channels=channels,
        side=side,
        backend=backend,
        positions=positions,
        section=section,
    )
    batch = statistics == "batch"
    module = build(nn.BatchNorm2d).to(device) if batch else with_stored_statistics(build, x.detach())
    return make_step(mode, lambda: module.train()(x), [x, *module.parameters()], device, dtype)


def make_backbone(norm: type[nn.Module], **options: Any) -> nn.Module:
    """Call :func:`lesa_d2.modeling.build_lesa_resnet` with this norm."""
    is_plain = options.get("backend") == DEFINITION
    if is_plain:
        options["backend"] = "auto"
    resnet = build_lesa_resnet(norm="EvalBN" if norm is EvalBatchNorm2d else "BN", **options)
    return by_definition(resnet) if is_plain else resnet


def backbone(
    mode: str,
    *,
    operator: str,
    image_size: int,
    backend: str = "auto",
    memory_format: torch.memory_format = torch.contiguous_format,
    device: str = "cpu",
    dtype: torch.dtype = FLOAT,
) -> Step:
    """Make R50 on one image, norms with stored statistics, everything trained."""
    x = torch.randn(1, 3, image_size, image_size, device=device)
    build = partial(make_backbone, operator=operator, image_size=image_size, backend=backend)
    module = with_stored_statistics(build, x).to(memory_format=memory_format)
    x = x.to(memory_format=memory_format)
    return make_step(mode, lambda: module(x), list(module.parameters()), device, dtype)


def detector(
    mode: str,
    *,
    config_file: str,
    image_size: int,
    device: str = "cpu",
    dtype: torch.dtype = FLOAT,
    **bottom_up: Any,
) -> Step:
    """Make a config's detector on one random image: a training step's losses and gradients, or predictions.

    Its heads work on the same regions whatever the backbone is (:func:`fix_regions`).  ``bottom_up`` are arguments of
    the backbone beside those of the config.
    """
    cfg = load_config(config_file)
    for node in lesa_backbones(cfg).values():
        node.update(image_size=image_size, **bottom_up)
        options = {k: v for k, v in node.items() if k not in ("_target_", "norm")}
    model = instantiate(cfg.model)
    build = partial(make_backbone, **{**options, "freeze_at": 0})
    state = with_stored_statistics(build, torch.randn(1, 3, image_size, image_size)).state_dict()
    model.backbone.bottom_up.load_state_dict(state)
    fix_regions(model, image_size)
    return _model_step(mode, cfg, model.to(device), 1, image_size, device, dtype)


def fix_regions(model: Any, side: int) -> None:
    """Have a two-stage detector of one image go on with the same proposals and, of Mask R-CNN, the same detections.

    How many an untrained model finds depends on its random numbers, and so would the time of its heads.  All parts
    run as they are, and which regions come out of them is replaced: ``PROPOSALS`` boxes, the first ``DETECTIONS`` of
    them detected.

    Args:
        model: changed in place.
        side: of the square image, in pixels.
    """
    numbers = torch.Generator().manual_seed(0)
    corners = torch.rand(PROPOSALS, 2, generator=numbers) * side * 0.7
    sides = torch.rand(PROPOSALS, 2, generator=numbers) * side * 0.2 + side * 0.1
    boxes = Boxes(torch.cat([corners, corners + sides], 1))
    propose = model.proposal_generator.forward

    def proposals(*args: Any, **options: Any) -> tuple[list[Instances], dict[str, Tensor]]:
        found, losses = propose(*args, **options)
        device = found[0].proposal_boxes.device
        logits = torch.zeros(PROPOSALS, device=device)
        return [Instances((side, side), proposal_boxes=boxes.to(device), objectness_logits=logits)], losses

    model.proposal_generator.forward = proposals
    predictor = getattr(model.roi_heads, "box_predictor", None)
    if not isinstance(predictor, FastRCNNOutputLayers):  # a cascade has one for each stage
        return

    def detections(
        predictions: tuple[Tensor, Tensor], found: list[Instances]
    ) -> tuple[list[Instances], None]:
        scores = predictions[0].softmax(-1)[:DETECTIONS, 0]
        shown = boxes[:DETECTIONS].to(scores.device)
        classes = torch.zeros(DETECTIONS, dtype=torch.long, device=scores.device)
        return [Instances((side, side), pred_boxes=shown, scores=scores, pred_classes=classes)], None

    predictor.inference = detections


def config_step(
    mode: str,
    *,
    config_file: str,
    image_size: int,
    overrides: Sequence[str] = (),
    images: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = FLOAT,
) -> Step:
    """Make a config's model, on as many regions as it handles at most, as the estimate of its memory has it.

    It is run on a small image once, so that code that is loaded at first use does not count as memory of a step.
    """
    cfg = load_config(config_file, overrides)
    prepare_config(cfg)
    model = instantiate(cfg.model).to(device)
    _model_step(mode, cfg, model, 2, 64, device, dtype)()
    model.zero_grad(set_to_none=True)
    return _model_step(mode, cfg, model, images, image_size, device, dtype)


def _model_step(
    mode: str, cfg: DictConfig, model: nn.Module, images: int, side: int, device: str, dtype: torch.dtype
) -> Step:
    inputs = generate_inputs(cfg, images, (side, side))
    model.train(mode == "training")

    def run() -> Any:
        with EventStorage():  # detectron2's heads write to it
            return model(inputs)

    return make_step(mode, run, list(model.parameters()), device, dtype)


def variants_of_attention(side: int, device: str = "cpu", dtype: torch.dtype = FLOAT) -> list[Variant]:
    """Return the definition, every backend that can run, and PyTorch's attention without bias."""
    backends = ["reference", "blockwise", "sdpa"] + (["fused"] if device == "cuda" else [])
    make = partial(relative, side=side, device=device, dtype=dtype)
    found = [Variant(backend, partial(make, backend=backend)) for backend in backends]
    return [*found, Variant("no bias, d=32", partial(unbiased, side=side, device=device, dtype=dtype))]
