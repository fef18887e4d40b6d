"""What can be asked of a module with all-to-all attention: who contributes, a position itself or the others.

Everything here is for eval mode, where an image's attention depends on nothing but the image.

Shapes: N images, G heads, n = H·W row-major positions.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .attention import attention_of, attention_without_self, relative_attention, self_weights
from .attention.reference import OwnPosition, softmax


class InspectableAttention(ABC):
    """An operator of the slot, or the module inside it, that attends.

    Attributes:
        own_position: what the softmax does with it: "kept"; for evaluation also "dropped" or "masked", see
            ``lesa_d2.tools.analysis.without_own_position``.
    """

    training: bool
    own_position: OwnPosition = "kept"

    def self_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the softmax weight that a position gives itself, and that of all others together.

        Args:
            x: the module's input (N, C, H, W).

        Returns:
            own and rest, (N, G, n) each, in float64, computed independently; not differentiable.

        Raises:
            RuntimeError: in training mode.
        """
        self._check_mode("self_weights")
        with torch.no_grad():
            return self._self_weights(x)

    def attention_of(self, x: Tensor, position: tuple[int, int]) -> Tensor:
        """Compute the softmax weights of the query at ``position`` (y, x) of the map: (N, G, H, W).

        Raises:
            RuntimeError: in training mode.
            ValueError: the map has no such position.
        """
        self._check_mode("attention_of")
        height, width = x.shape[2:]
        row, column = position
        if row not in range(height) or column not in range(width):
            raise ValueError(f"a map of {height}×{width} has no position (y, x) = ({row}, {column})")
        with torch.no_grad():
            return self._attention_of(x, row * width + column).unflatten(2, (height, width))

    def checked_own_position(self) -> OwnPosition:
        """Return ``own_position``.

        Raises:
            RuntimeError: it is not "kept" in training mode.
        """
        if self.own_position != "kept":
            self._check_mode("attention without the own position")
        return self.own_position

    def _check_mode(self, what: str) -> None:
        if self.training:
            raise RuntimeError(f"{what} is for evaluation; call eval() on the module first")

    @abstractmethod
    def _self_weights(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def _attention_of(self, x: Tensor, position: int) -> Tensor: ...


class ThinAttention(InspectableAttention):
    """Attention with decomposed positions: two tables of biases, one an axis, and no map of all pairs."""

    backend: str

    @property
    @abstractmethod
    def head_channels(self) -> tuple[int, int]:
        """Return how many channels a head has for keys, and for values."""

    @abstractmethod
    def attention_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return q, k, v, col_bias and row_bias of :func:`relative_attention` for an input (N, C, H, W)."""

    def attend_thinly(self, q: Tensor, k: Tensor, v: Tensor, col_bias: Tensor, row_bias: Tensor) -> Tensor:
        """Attend by the operator's backend, without the own position where that is set; return (N, G, n, dv)."""
        own_position = self.checked_own_position()
        if own_position == "kept":
            return relative_attention(q, k, v, col_bias, row_bias, self.backend)
        return attention_without_self(q, k, v, col_bias, row_bias, renormalise=own_position == "masked")

    def _self_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, _, col_bias, row_bias = self.attention_inputs(x)
        return self_weights(q, k, col_bias, row_bias)

    def _attention_of(self, x: Tensor, position: int) -> Tensor:
        q, k, _, col_bias, row_bias = self.attention_inputs(x)
        return attention_of(q, k, col_bias, row_bias, position)


class MappedAttention(InspectableAttention):
    """Attention by one map of all pairs' logits a head; for small maps."""

    def softmax(self, logits: Tensor) -> Tensor:
        """Compute the softmax over the keys of (N, G, n, n), without the own position where that is set."""
        return softmax(logits, self.checked_own_position())

    @abstractmethod
    def attention_logits(self, x: Tensor) -> Tensor:
        """Compute the logits of an input: (N, C, H, W) -> (N, G, n, n)."""

    def _self_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.attention_logits(x).double().softmax(-1)
        own = weights.diagonal(dim1=-2, dim2=-1).clone()
        weights.diagonal(dim1=-2, dim2=-1).zero_()
        return own, weights.sum(-1)

    def _attention_of(self, x: Tensor, position: int) -> Tensor:
        return self.attention_logits(x)[:, :, position].softmax(-1)
