"""What is measured: steps of attention, operators, backbones and detectors.

Every function here makes a step: mode "forward" runs without gradients, "training" runs forward and backward.
All are importable by name, so that a fresh process can make the same step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import OPERATORS, EvalBatchNorm2d
from ...layers.attention import relative_attention
from ...layers.unary import conv3x3
from .measure import Step, Variant

HEADS = 8


@dataclass(frozen=True)
class Place:
    """Where and in which precision; for a half ``dtype`` modules run under autocast."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normally distributed numbers."""
        return torch.randn(*shape, device=self.device, dtype=dtype or self.dtype)

    def autocast(self) -> torch.autocast:
        """The context for modules."""
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)


def make_step(mode: str, run: Callable[[], Any], place: Place, parameters: list[Tensor]) -> Step:
    """Forward without gradients, or forward and backward; ``run`` returns a tensor or a dict of them."""

    def forward() -> Any:
        with torch.no_grad(), place.autocast():
            return run()

    def train() -> None:
        for p in parameters:
            p.grad = None
        with place.autocast():
            out = run()
        outs = list(out.values()) if isinstance(out, dict) else [out]
        torch.autograd.backward(outs, [torch.ones_like(o) for o in outs])

    return forward if mode == "forward" else train


def relative(mode: str, *, backend: str, side: int, place: Place, key_dim: int = 16) -> Step:
    """Attention with decomposed relative logits on a side×side map, values twice as long as keys."""
    places = side * side
    half = [place.random(1, HEADS, places, d) for d in (key_dim, key_dim, 2 * key_dim)]
    biases = [place.random(1, HEADS, places, side, dtype=torch.float32) for _ in range(2)]
    inputs = [t.requires_grad_(mode == "training") for t in (*half, *biases)]
    q, k, v, col_bias, row_bias = inputs
    run = partial(relative_attention, q, k, v, col_bias, row_bias, backend)
    return make_step(mode, run, place, inputs)


def unbiased(mode: str, *, side: int, place: Place, dim: int = 32) -> Step:
    """PyTorch's own attention without any bias, keys as long as values: a practical limit."""
    shape = (1, HEADS, side * side, dim)
    q, k, v = (place.random(*shape).requires_grad_(mode == "training") for _ in range(3))
    return make_step(mode, partial(F.scaled_dot_product_attention, q, k, v), place, [q, k, v])


def settled(build: Callable[[type[nn.Module]], nn.Module], x: Tensor) -> nn.Module:
    """A module with the stored statistics of one batch, which it uses in training too."""
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
    norm: type[nn.Module], *, operator: str, channels: int, side: int, backend: str, positions: str, part: str
) -> nn.Module:
    """An operator of the slot, or its "binary" term alone; "conv" is the 3×3 it replaces."""
    if operator == "conv":
        return conv3x3(channels, channels)
    whole = OPERATORS[operator](
        channels, channels, num_heads=HEADS, feat_size=side, backend=backend, positions=positions, norm=norm
    )
    return whole if part == "whole" else getattr(whole, part)


def operator(
    mode: str,
    *,
    operator: str,
    side: int,
    place: Place,
    channels: int = 256,
    backend: str = "auto",
    positions: str = "decomposed",
    part: str = "whole",
    statistics: str = "stored",
    images: int = 1,
) -> Step:
    """An operator on side×side maps; ``statistics`` of its norms: "stored" or of the "batch"."""
    x = place.random(images, channels, side, side, dtype=torch.float32).requires_grad_(mode == "training")
    build = partial(
        make_operator,
        operator=operator,
        channels=channels,
        side=side,
        backend=backend,
        positions=positions,
        part=part,
    )
    module = build(nn.BatchNorm2d).to(place.device) if statistics == "batch" else settled(build, x.detach())
    return make_step(mode, lambda: module.train()(x), place, [x, *module.parameters()])


def make_backbone(norm: type[nn.Module], **options: Any) -> nn.Module:
    """:func:`lesa_d2.modeling.build_lesa_resnet` with this norm."""
    from ...modeling import build_lesa_resnet

    return build_lesa_resnet(norm="EvalBN" if norm is EvalBatchNorm2d else "BN", **options)


def backbone(
    mode: str,
    *,
    operator: str,
    image_size: int,
    place: Place,
    backend: str = "auto",
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Step:
    """R50 on one image, norms with stored statistics, everything trained."""
    x = place.random(1, 3, image_size, image_size, dtype=torch.float32)
    build = partial(make_backbone, operator=operator, image_size=image_size, backend=backend)
    module = settled(build, x).to(memory_format=memory_format)
    x = x.to(memory_format=memory_format)
    return make_step(mode, lambda: module(x), place, list(module.parameters()))


def detector(
    mode: str,
    *,
    config_file: str,
    image_size: int,
    place: Place,
    objects: int = 12,
    proposals: bool = False,
    **bottom_up: Any,
) -> Step:
    """A config's detector on one random image: a training step's losses and gradients, or predictions.

    Args:
        objects: of the image's truth.
        proposals: untrained, most regions are empty; with this, anchors are proposals, as many as in
            training, and as many regions as there are objects count as such.
        bottom_up: arguments of the backbone beside those of the config.
    """
    from detectron2.config import LazyConfig, instantiate
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    cfg = LazyConfig.load(config_file).model
    cfg.backbone.bottom_up.update(image_size=image_size, **bottom_up)
    model = instantiate(cfg).to(place.device)
    x = place.random(1, 3, image_size, image_size, dtype=torch.float32)
    options = {k: v for k, v in cfg.backbone.bottom_up.items() if k not in ("_target_", "norm")}
    state = settled(partial(make_backbone, **{**options, "freeze_at": 0}), x).state_dict()
    model.backbone.bottom_up.load_state_dict(state)
    if proposals:
        for parameter in model.proposal_generator.rpn_head.anchor_deltas.parameters():
            nn.init.zeros_(parameter)
        for sampler in (model.roi_heads, *getattr(model.roi_heads, "_samplers", ())):
            sampler.positive_fraction = objects / sampler.batch_size_per_image
    corner = torch.rand(objects, 2) * image_size * 0.7
    target = Instances((image_size, image_size))
    target.gt_boxes = Boxes(torch.cat([corner, corner + image_size * 0.2], 1))
    target.gt_classes = torch.zeros(objects, dtype=torch.long)
    target.gt_masks = BitMasks(torch.rand(objects, image_size, image_size) > 0.5)
    image = torch.randint(0, 256, (3, image_size, image_size), dtype=torch.uint8)
    inputs = [{"image": image, "instances": target, "height": image_size, "width": image_size}]
    if (semantic := cfg.roi_heads.get("semantic_head")) is not None:
        inputs[0]["sem_seg"] = torch.randint(0, semantic.num_classes, (image_size, image_size))
    model.train(mode == "training")

    def run() -> Any:
        with EventStorage():  # detectron2's heads write to it
            return model(inputs)

    return make_step(mode, run, place, list(model.parameters()))


def variants_of_attention(side: int, place: Place) -> list[Variant]:
    """The definition, every backend that can run, and PyTorch's attention without bias."""
    backends = ["reference", "blockwise", "sdpa"] + (["fused"] if place.device == "cuda" else [])
    found = [Variant(b, partial(relative, backend=b, side=side, place=place)) for b in backends]
    return [*found, Variant("no bias, d=32", partial(unbiased, side=side, place=place))]
