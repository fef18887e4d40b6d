"""The binary term of LESA, the sum in eq. 5: over all positions of the map, the own position among them.

    binary = BN_out( softmax_j( logits_ij ) v_j )        q, k, v = BN( W_qkv x )

The norms are the released code's; eq. 5 prints none.

Shapes: N images, C channels, G heads, n = H·W positions, dq = C/(2G) query/key and dv = C/G value channels a
head.  The channels of the projection are head-major: head g holds [q (dq), k (dq), v (dv)].

:mod:`.definition` has the formula as it stands, each map of logits through its norm; here the same is computed
without such maps.  A norm of logits is a·s + b with b the same for all keys, so that b drops out of the softmax
and only the factor a remains.  It folds into the queries: a comes from the stored statistics, or in training from
moments in closed form, and no logit is normalised.  A logit norm with hooks is called with the maps after all.
"""

from __future__ import annotations  # nested ones are evaluated while torch.compile traces

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import check_backend
from .attention.reference import relative_logits, softmax
from .exporting import sizes_are_open
from .folding import (
    batch_affine,
    check_is_batch_norm,
    conv_affine,
    conv_norm,
    is_foldable,
    must_be_called,
    stored_affine,
    uses_batch_statistics,
)
from .inspection import InspectableAttention, MappedAttention, ThinAttention
from .moments import Moments, content_moments, pair_moments, relative_moments
from .positions import DecomposedPositions, FlattenedPositions, Size
from .precision import at_least_float32, no_autocast


class BinaryTerm(nn.Module, InspectableAttention):
    """The binary term, (N, C, H, W) -> (N, C', H, W); subclasses define the position type."""

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
        check_backend(backend)  # an unknown name fails here rather than in the first forward
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
        """Make the position tables for maps of ``feat_size``."""

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: Size) -> Tensor:
        """Attend: q, k (N, G, n, dq), v (N, G, n, dv) -> (N, outputs_per_channel · C', n)."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the binary term: (N, C, H, W) -> (N, C', H, W)."""
        size = (x.shape[2], x.shape[3])
        q, k, v = self.split_heads(self.project(x))
        return self.normalise_output(self.attend(q, k, v, size).to(v.dtype).unflatten(2, size))

    def project(self, x: Tensor) -> Tensor:
        """Compute BN( W_qkv x ): (N, C, H, W) -> (N, 2C', H, W)."""
        return conv_norm(self.qkv, self.qkv_norm, x)

    def split_heads(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split (N, 2C', H, W) into q, k (N, G, n, dq) and v (N, G, n, dv)."""
        heads = projected.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)
        q, k, v = heads.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
        return q, k, v

    def normalise_output(self, out: Tensor) -> Tensor:
        """Apply the output's norm: (N, outputs_per_channel · C', H, W) -> (N, C', H, W)."""
        return self.out_norm(out).unflatten(1, (-1, self.outputs_per_channel)).sum(2)

    def logit_affine(self, moments: Callable[[], list[Moments]]) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the logit norm, (terms, G, 1, 1) each.

        Args:
            moments: computes those of every term over images and pairs; called where the norm uses the batch's.
        """
        if uses_batch_statistics(self.logit_norm):
            scale, shift = batch_affine(self.logit_norm, Moments.of_terms(moments()))
        else:
            scale, shift = stored_affine(self.logit_norm)
        shape = (self.num_logit_terms, self.num_heads, 1, 1)
        return scale.view(shape), shift.view(shape)

    def call_logit_norm(self, *terms: Tensor) -> Tensor:
        """Return the sum of all terms of the logits, each through the norm: (N, G, n, n) each -> (N, G, n, n)."""
        maps = self.logit_norm(torch.cat(terms, dim=1))
        return maps.unflatten(1, (self.num_logit_terms, self.num_heads)).sum(1)


class DecomposedBinaryTerm(BinaryTerm, ThinAttention):
    """Detection: logits = BN(qk) + BN(qr) with one table an axis; exact for any H×W."""

    num_logit_terms = 2
    outputs_per_channel = 1
    positions: DecomposedPositions

    @property
    def head_channels(self) -> tuple[int, int]:
        """Return how many channels a head has for keys, and for values."""
        return self.key_dim, self.value_dim

    def make_positions(self, feat_size: int | tuple[int, int]) -> nn.Module:
        """Make a table for each axis."""
        return DecomposedPositions(self.key_dim, feat_size)

    def project(self, x: Tensor) -> Tensor:
        """Compute BN( W_qkv x ); the output's norm is folded into its values where that is possible."""
        if not self._values_carry_output_norm():
            return super().project(x)
        scale, shift = (t.view(self.num_heads, -1) for t in stored_affine(self.qkv_norm))
        out_scale, out_shift = (t.view(self.num_heads, -1) for t in stored_affine(self.out_norm))
        keys, values = scale.split([2 * self.key_dim, self.value_dim], 1)
        key_shift, value_shift = shift.split([2 * self.key_dim, self.value_dim], 1)
        scale = torch.cat([keys, values * out_scale], 1)
        shift = torch.cat([key_shift, value_shift * out_scale + out_shift], 1)
        return conv_affine(self.qkv, scale.flatten(), shift.flatten(), x)

    def normalise_output(self, out: Tensor) -> Tensor:
        """Apply the output's norm unless the values carry it: (N, C', H, W) -> (N, C', H, W)."""
        return out if self._values_carry_output_norm() else self.out_norm(out)

    def _values_carry_output_norm(self) -> bool:
        """Return whether the output's norm is folded into the values.

        The weights of a query sum to one, so that an affine map of the output is one of the values.  Without the
        own position that need not be so.
        """
        are_foldable = is_foldable(self.qkv_norm) and is_foldable(self.out_norm)
        return are_foldable and not must_be_called(self.qkv) and self.own_position == "kept"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: Size) -> Tensor:
        """Attend by the operator's backend: q, k (N, G, n, dq), v (N, G, n, dv) -> (N, C', n)."""
        if must_be_called(self.logit_norm):
            out = self._attend_with_maps(q, k, v, size)
        else:
            out = self.attend_thinly(*self._fold_logit_norm(q, k, v, size))
        if not sizes_are_open() and v.stride(3) == 1:  # the map is channels_last, and stays so
            return out.transpose(1, 2).flatten(2).transpose(1, 2)
        return out.transpose(2, 3).flatten(1, 2)

    def _attend_with_maps(self, q: Tensor, k: Tensor, v: Tensor, size: Size) -> Tensor:
        """Attend with every logit in memory, as the logit norm has hooks that want to see them: -> (N, G, n, dv)."""
        with no_autocast(q):
            q, k, wide = map(at_least_float32, (q, k, v))
            logits = self.call_logit_norm(q @ k.mT, relative_logits(*self.positions(q, size)))
            return softmax(logits, self.checked_own_position()) @ wide

    def attention_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return q, k, v and the biases of an input (N, C, H, W), with the logit norm folded in."""
        return self._fold_logit_norm(*self.split_heads(self.project(x)), (x.shape[2], x.shape[3]))

    def _fold_logit_norm(
        self, q: Tensor, k: Tensor, v: Tensor, size: Size
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return q, k, v, col_bias and row_bias of an attention, with the logit norm folded into the queries."""
        with no_autocast(q):
            q = at_least_float32(q)
            scale, shift = self.logit_affine(lambda: self._moments(q, at_least_float32(k), size))
            col_bias, row_bias = self.positions(q * scale[1], size)
            # The shift cancels in the softmax; it stays because data parallel training wants every parameter to
            # take part in the loss.
            col_bias += shift.sum(0)
        return q * scale[0], k, v, col_bias, row_bias

    def _moments(self, q: Tensor, k: Tensor, size: Size) -> list[Moments]:
        columns, rows = (table.to(q.dtype) for table in self.positions.embeddings(size))
        return [content_moments(q, k), relative_moments(q, columns, rows)]


class FlattenedBinaryTerm(BinaryTerm, MappedAttention):
    """ImageNet: logits = BN(qk) + BN(qr) + BN(kr), and position-dependent values.

    qr_ij = q_i · Rq[i−j]     kr_ij = k_j · Rk[j−i]     sve_i = Σ_j p_ij Rv[i−j]

    The output norm sees 2C channels, interleaved per channel (even p·v, odd sve), which are then added.
    """

    num_logit_terms = 3
    outputs_per_channel = 2

    def make_positions(self, feat_size: int | tuple[int, int]) -> nn.Module:
        """Make one table for the differences of flattened positions."""
        return FlattenedPositions(self.key_dim, self.value_dim, feat_size)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: Size) -> Tensor:
        """Attend with one map of all pairs: q, k (N, G, n, dq), v (N, G, n, dv) -> (N, 2C', n)."""
        with no_autocast(q):
            q, k, v = map(at_least_float32, (q, k, v))
            rq, rk, rv = (r.to(q.dtype) for r in self.positions(size))
            weights = self.softmax(self._logits(q, k, rq, rk))
            values = torch.stack([weights @ v, torch.einsum("bgij,cij->bgic", weights, rv)], dim=-1)
        return values.permute(0, 1, 3, 4, 2).flatten(1, 3)  # channels ordered (head, channel, kind)

    def attention_logits(self, x: Tensor) -> Tensor:
        """Compute the normalised logits of an input: (N, C, H, W) -> (N, G, n, n)."""
        q, k, _ = self.split_heads(self.project(x))
        with no_autocast(q):
            q, k = at_least_float32(q), at_least_float32(k)
            rq, rk, _ = (r.to(q.dtype) for r in self.positions((x.shape[2], x.shape[3])))
            return self._logits(q, k, rq, rk)

    def _logits(self, q: Tensor, k: Tensor, rq: Tensor, rk: Tensor) -> Tensor:
        """Compute one map of all pairs rather than three: maps are small here, and so are their blocks."""

        def moments() -> list[Moments]:
            by_query, by_key = rq.permute(1, 2, 0), rk.permute(2, 1, 0)
            return [content_moments(q, k), pair_moments(q, by_query), pair_moments(k, by_key)]

        if must_be_called(self.logit_norm):
            return self.call_logit_norm(
                q @ k.mT,
                torch.einsum("bgic,cij->bgij", q, rq),
                torch.einsum("bgjc,cij->bgij", k, rk),
            )
        scale, shift = self.logit_affine(moments)
        logits = (q * scale[0]) @ k.transpose(-2, -1)
        logits += torch.einsum("bgic,cij->bgij", q * scale[1], rq)
        logits += torch.einsum("bgjc,cij->bgij", k * scale[2], rk)
        logits += shift.sum(0)
        return logits


BINARY_TERMS: dict[str, type[BinaryTerm]] = {
    "decomposed": DecomposedBinaryTerm,
    "flattened": FlattenedBinaryTerm,
}
