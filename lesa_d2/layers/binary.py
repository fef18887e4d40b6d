"""The binary term of LESA, eq. 6: what all other positions say to a position.

    binary = BN_out( softmax_j( logits_ij ) v_j )        q, k, v = BN( W_qkv x )

Shapes: N images, C channels, G heads, n = H·W positions, dq = C/(2G) query/key and dv = C/G value channels a
head.  The channels of the projection are head-major: head g holds [q (dq), k (dq), v (dv)].

Where the released code does more than the paper says, it is followed: there is no 1/sqrt(d); instead every
head's logit terms pass a batch norm of their own and are then added.  With stored statistics such a norm is
a·s + b; b is the same for all keys and drops out of the softmax, so that only the factor a remains.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import find_backend, full_precision, relative_attention, relative_logits
from .norm import check_is_batch_norm, stored_affine, uses_batch_statistics
from .positions import DecomposedPositions, FlattenedPositions, Size


class BinaryTerm(nn.Module, ABC):
    """(N, C, H, W) -> (N, C', H, W); subclasses fix the position type."""

    num_logit_terms: int
    outputs_per_channel: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_heads: int,
        feat_size: int | tuple[int, int],
        backend: str = "auto",
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        find_backend(backend)  # an unknown name fails here rather than in the first forward
        self.backend = backend
        self.num_heads = num_heads
        self.key_dim = out_channels // (2 * num_heads)
        self.value_dim = out_channels // num_heads
        self.qkv = nn.Conv2d(in_channels, 2 * out_channels, 1, bias=False)
        nn.init.normal_(self.qkv.weight, std=in_channels**-0.5)
        self.qkv_norm = norm(2 * out_channels)
        self.positions = self.make_positions(feat_size)
        self.logit_norm = norm(self.num_logit_terms * num_heads)
        check_is_batch_norm(self.logit_norm)
        self.out_norm = norm(self.outputs_per_channel * out_channels)

    @abstractmethod
    def make_positions(self, feat_size: int | tuple[int, int]) -> nn.Module:
        """The position tables for maps of ``feat_size``."""

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: Size) -> Tensor:
        """q, k (N, G, n, dq), v (N, G, n, dv) -> (N, outputs_per_channel · C', n)."""

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        q, k, v = self.project(x)
        with full_precision(q, k, v) as (wide_q, wide_k, wide_v):
            out = self.attend(wide_q, wide_k, wide_v, size)
        out = self.out_norm(out.to(v.dtype).unflatten(2, size))
        return out.unflatten(1, (-1, self.outputs_per_channel)).sum(2)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) -> q, k (N, G, n, dq) and v (N, G, n, dv)."""
        heads = self.qkv_norm(self.qkv(x)).flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)
        q, k, v = heads.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
        return q, k, v

    def normalise_logits(self, terms: list[Tensor]) -> Tensor:
        """Each term (N, G, n, n) through its own channels of the logit norm, then added: (N, G, n, n)."""
        if uses_batch_statistics(self.logit_norm):
            maps = torch.cat(terms, dim=1).to(next(self.logit_norm.parameters()).dtype)
            return self.logit_norm(maps).unflatten(1, (len(terms), -1)).sum(1).to(terms[0].dtype)
        scale, shift = self.folded_norm(terms[0].dtype)
        return sum(term * a for term, a in zip(terms, scale, strict=True)) + shift.sum(0)

    def folded_norm(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Scale and shift of the logit norm's stored statistics, (terms, G, 1, 1) each."""
        scale, shift = stored_affine(self.logit_norm)
        shape = (self.num_logit_terms, self.num_heads, 1, 1)
        return scale.to(dtype).view(shape), shift.to(dtype).view(shape)


class DecomposedBinaryTerm(BinaryTerm):
    """Detection: logits = BN(qk) + BN(qr) with one table an axis; exact for any H×W."""

    num_logit_terms = 2
    outputs_per_channel = 1

    def make_positions(self, feat_size: int | tuple[int, int]) -> nn.Module:
        return DecomposedPositions(self.key_dim, feat_size)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: Size) -> Tensor:
        col_bias, row_bias = self.positions(q, size)
        if uses_batch_statistics(self.logit_norm):
            terms = [q @ k.transpose(-2, -1), relative_logits(col_bias, row_bias)]
            out = self.normalise_logits(terms).softmax(-1) @ v
        else:
            out = self._attend_folded(q, k, v, col_bias, row_bias)
        return out.transpose(2, 3).flatten(1, 2)

    def _attend_folded(self, q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
        """Attention with the logit norm's stored statistics folded into q and the thin bias tables."""
        scale, shift = self.folded_norm(q.dtype)
        # The shift cancels in the softmax; it is carried along because data parallel training wants every
        # parameter to take part in the loss.
        col_bias = col_bias * scale[1] + shift.sum(0)
        return relative_attention(q * scale[0], k, v, col_bias, row_bias * scale[1], self.backend)


class FlattenedBinaryTerm(BinaryTerm):
    """ImageNet: logits = BN(qk) + BN(qr) + BN(kr), and position-dependent values.

    qr_ij = q_i · Rq[i−j]     kr_ij = k_j · Rk[j−i]     sve_i = Σ_j p_ij Rv[i−j]

    The output norm sees 2C channels, interleaved per channel (even p·v, odd sve), which are then added.
    """

    num_logit_terms = 3
    outputs_per_channel = 2

    def make_positions(self, feat_size: int | tuple[int, int]) -> nn.Module:
        return FlattenedPositions(self.key_dim, self.value_dim, feat_size)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: Size) -> Tensor:
        rq, rk, rv = (r.to(q.dtype) for r in self.positions(size))
        content = q @ k.transpose(-2, -1)
        from_query = torch.einsum("bgic,cij->bgij", q, rq)
        from_key = torch.einsum("bgjc,cij->bgij", k, rk)
        weights = self.normalise_logits([content, from_query, from_key]).softmax(-1)
        values = torch.stack([weights @ v, torch.einsum("bgij,cij->bgic", weights, rv)], dim=-1)
        return values.permute(0, 1, 3, 4, 2).flatten(1, 3)  # channels ordered (head, channel, kind)


BINARY_TERMS: dict[str, type[BinaryTerm]] = {
    "decomposed": DecomposedBinaryTerm,
    "flattened": FlattenedBinaryTerm,
}
