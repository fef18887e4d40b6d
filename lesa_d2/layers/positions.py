"""Relative positions of all-to-all attention: the two table layouts, for any map.

Shapes: N images, G heads, an H×W map with n = H·W row-major positions, ``d`` channels a head; ``F`` is the
side a table was made for, so that it holds the 2F−1 offsets −(F−1) … F−1.

A table made for one size serves another by linear interpolation over its offsets: the largest offsets of both
sizes coincide and offset zero stays at zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .exporting import sizes_are_open
from .precision import at_least_float32

Size = tuple[int, int]


def parse_size(feat_size: int | tuple[int, int]) -> Size:
    """Return (H, W) for a side or a pair.

    Raises:
        ValueError: they are no positive integers.
    """
    size = (feat_size, feat_size) if isinstance(feat_size, int) else feat_size
    is_pair = isinstance(size, Sequence) and len(size) == 2
    if not is_pair or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"a size must be a positive int or a pair (H, W) of them, got {feat_size!r}")
    return size[0], size[1]


def resize_offsets(table: Tensor, side: int, dim: int) -> Tensor:
    """Resize axis ``dim`` of ``table`` from 2F−1 offsets to 2·side−1, linearly, zero offset kept."""
    length = table.shape[dim]
    # Open sizes cannot be compared; to interpolate to the same length changes nothing.
    if not sizes_are_open() and length == 2 * side - 1:
        return table
    from_zero = torch.arange(2 * side - 1, device=table.device) - side + 1
    reach = from_zero[-1].clamp_min(1)  # a map of one position has the offset zero alone
    wide = at_least_float32(table)  # half types cannot tell positions apart
    place = from_zero.to(wide.dtype) * (length // 2) / reach + length // 2
    below = place.floor().clamp_max(length - 2).clamp_min(0).long()
    share = (place - below).unflatten(0, [-1] + [1] * (table.dim() - 1 - dim))
    above = (below + 1).clamp_max(length - 1)
    return torch.lerp(wide.index_select(dim, below), wide.index_select(dim, above), share).to(table.dtype)


def offset_index(side: int, device: torch.device) -> Tensor:
    """Return the table's rows for all pairs, (side, side): entry (i, j) is the row that holds offset j − i."""
    index = torch.arange(side, device=device)
    return index[None, :] - index[:, None] + side - 1


def by_pairs(table: Tensor, side: int, dim: int = 0, from_key: bool = False) -> Tensor:
    """Return the entries of a table for all pairs: axis ``dim`` of 2·side − 1 offsets becomes (side, side).

    Entry (i, j) belongs to the offset j − i, as in :func:`offset_index`; with ``from_key`` to i − j.  Its backward
    pass adds windows, where that of an index would sort the index.
    """
    # Windows have one length in a graph, and a compiled one serves many sizes.
    if sizes_are_open() or torch.compiler.is_compiling():
        index = offset_index(side, table.device)
        index = index.T if from_key else index
        return table.index_select(dim, index.flatten()).unflatten(dim, (side, side))
    windows = table.unfold(dim, side, 1).movedim(-1, dim + 1)
    return windows.flip(dim + 1 if from_key else dim)


class DecomposedPositions(nn.Module):
    """Two tables, one an axis, shared by the heads (released name ``detection_qr``).

    The logit of query i and key j is q_i · (Rw[x_j − x_i] + Rh[y_j − y_i]), returned as its two summands.
    """

    def __init__(self, dim: int, feat_size: int | tuple[int, int]) -> None:
        super().__init__()
        height, width = parse_size(feat_size)
        self.rel_height = nn.Parameter(torch.randn(2 * height - 1, dim) * dim**-0.5)
        self.rel_width = nn.Parameter(torch.randn(2 * width - 1, dim) * dim**-0.5)

    def forward(self, q: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Compute the logits that the tables add.

        Args:
            q: queries (N, G, n, d), n = H·W.
            size: (H, W).

        Returns:
            ``col_bias`` (N, G, n, W) and ``row_bias`` (N, G, n, H): the logit that query i adds for keys in
            column x, and in row y.  In memory, neighbouring queries are neighbours in ``row_bias``: the fused
            kernels read it so.
        """
        q = q.unflatten(2, size)
        columns, rows = (table.to(q.dtype) for table in self.embeddings(size))
        col_bias = torch.einsum("bgyxc,xkc->bgyxk", q, columns)
        row_bias = torch.einsum("bgyxc,ykc->bgkyx", q, rows)
        return col_bias.flatten(2, 3), row_bias.flatten(3).mT

    def embeddings(self, size: Size) -> tuple[Tensor, Tensor]:
        """Return (W, W, d) and (H, H, d), whose entry (i, j) is the embedding of key column (row) j for query i."""
        height, width = size
        columns = by_pairs(resize_offsets(self.rel_width, width, 0), width)
        return columns, by_pairs(resize_offsets(self.rel_height, height, 0), height)


class FlattenedPositions(nn.Module):
    """One table indexed by the difference of flattened positions (released name ``classification``).

    The table R (2·dq + dv, 2n−1) is shared by the heads; its rows split into Rq (dq), Rk (dq) and Rv (dv).
    """

    def __init__(self, key_dim: int, value_dim: int, feat_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = parse_size(feat_size)
        self.splits = [key_dim, key_dim, value_dim]
        positions = self.size[0] * self.size[1]
        self.table = nn.Parameter(torch.randn(sum(self.splits), 2 * positions - 1) * value_dim**-0.5)

    def forward(self, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embeddings of all pairs on an H×W map, n = H·W.

        Returns:
            ``rq`` (dq, n, n) and ``rv`` (dv, n, n), whose entry (i, j) belongs to the difference i − j, and
            ``rk`` (dq, n, n), whose entry (i, j) belongs to j − i.
        """
        pairs = self._pairs(size)
        rq, rk, rv = pairs.split(self.splits)
        return rq, rk.transpose(1, 2), rv

    def _pairs(self, size: Size) -> Tensor:
        """Return (2·dq + dv, n, n), whose entry (i, j) is the table's column for i − j."""
        if not sizes_are_open() and size == self.size:
            return by_pairs(self.table, size[0] * size[1], 1, from_key=True)
        height, width = size
        grid = resize_offsets(resize_offsets(self.grid(), height, 1), width, 2)
        pairs = by_pairs(by_pairs(grid, width, 2, from_key=True), height, 1, from_key=True)
        return pairs.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def grid(self) -> Tensor:
        """Arrange the table by (dy, dx): (2·dq + dv, 2H−1, 2W−1).  Pairs of equal dy·W + dx share a column."""
        width = self.size[1]
        return self.table.unfold(1, 2 * width - 1, width)
