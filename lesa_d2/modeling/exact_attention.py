"""Our exact attention in linear memory for detectron2's vision transformers with decomposed relative positions."""

from typing import TypeVar

import torch
from detectron2.modeling.backbone import mvit, vit
from detectron2.modeling.backbone.utils import get_rel_pos
from torch import Tensor, nn

from ..errors import LesaError
from ..layers.attention import check_backend, relative_attention

Model = TypeVar("Model", bound=nn.Module)


class _Described:
    """Say what the start of a run reports of an attention."""

    is_channels_last = True  # of the inputs
    backend: str
    scale: float

    @property
    def head_channels(self) -> tuple[int, int]:
        """Return how many channels a head has for keys, and for values."""
        channels = round(self.scale**-2)
        return channels, channels


class ExactAttention(_Described, vit.Attention):
    """The attention of ViTDet without a map of all pairs: (N, H, W, C) -> (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend, by the same weights as detectron2's class."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 4, 1, 2, 5)
        return self.proj(_attend(self, q, k, v).permute(0, 2, 3, 1, 4).flatten(3))


class ExactMultiScaleAttention(_Described, mvit.MultiScaleAttention):
    """The attention of MViTv2 without a map of all pairs: (N, H, W, C) -> (N, H', W', C')."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend, by the same weights as detectron2's class."""
        maps = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 4, 1, 2, 5)
        pools = ((self.pool_q, self.norm_q), (self.pool_k, self.norm_k), (self.pool_v, self.norm_v))
        q, k, v = (
            mvit.attention_pool(t.flatten(0, 1), pool, norm).unflatten(0, t.shape[:2])
            for t, (pool, norm) in zip(maps, pools, strict=True)
        )
        out = _attend(self, q, k, v)
        if self.residual_pooling:
            out = out + q
        return self.proj(out.permute(0, 2, 3, 1, 4).flatten(3))


def _attend(module: ExactAttention | ExactMultiScaleAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend: q (N, G, h, w, d), k and v (N, G, H, W, d) -> (N, G, h, w, d)."""
    size, keys = q.shape[2:4], k.shape[2:4]
    if module.use_rel_pos:
        columns = get_rel_pos(size[1], keys[1], module.rel_pos_w).to(q.dtype)
        rows = get_rel_pos(size[0], keys[0], module.rel_pos_h).to(q.dtype)
        col_bias = torch.einsum("bgyxc,xkc->bgyxk", q, columns)
        row_bias = torch.einsum("bgyxc,ykc->bgkyx", q, rows)  # in memory as the fused kernels read it
    else:
        col_bias = q.new_zeros(*q.shape[:4], keys[1])
        row_bias = q.new_zeros(*q.shape[:2], keys[0], *q.shape[2:4])
    q, k, v, col_bias = (t.flatten(2, 3) for t in (q * module.scale, k, v, col_bias))
    row_bias = row_bias.flatten(3).mT
    return relative_attention(q, k, v, col_bias, row_bias, module.backend).unflatten(2, size)


EXACT: dict[type, type] = {
    vit.Attention: ExactAttention,
    ExactAttention: ExactAttention,
    mvit.MultiScaleAttention: ExactMultiScaleAttention,
    ExactMultiScaleAttention: ExactMultiScaleAttention,
}
"""Ours by detectron2's class; a subclass of somebody else's, which may compute something else, is left alone."""


def use_exact_attention(model: Model, backend: str = "auto") -> Model:
    """Have the global attention of detectron2's ViTDet and MViTv2 computed by ``relative_attention``, in place.

    Weights, their names and the outputs stay, up to rounding; the memory becomes linear in the number of positions.
    Attention within windows, and classes derived from detectron2's, stay as they are.

    Args:
        model: a model with a ``ViT`` or ``MViT`` in it, or a part of one.
        backend: of :func:`lesa_d2.layers.attention.relative_attention`.

    Returns:
        The model.

    Raises:
        LesaError: there is no global attention of these in the model.
        ValueError: an unknown backend, or one that cannot run here.
    """
    check_backend(backend)
    windowed = {id(m.attn) for m in model.modules() if isinstance(m, vit.Block) and m.window_size > 0}
    found = 0
    for module in model.modules():
        kind = EXACT.get(type(module))
        is_windowed = id(module) in windowed or bool(getattr(module, "window_size", 0))
        if kind is None or is_windowed:
            continue
        module.__class__ = kind
        vars(module)["backend"] = backend
        found += 1
    if not found:
        raise LesaError(
            "expected a model with the global attention of detectron2's ViT (ViTDet) or MViT (MViTv2), got "
            f"{type(model).__name__} without any"
        )
    return model
