"""How the fused kernels cut a map: queries and keys of a tile, and the warps of 32 threads that compute it.

The numbers come from the machine code for each card, which ``lesa benchmark kernels`` compiles and reads: the largest
tiles without repeated work (a warp for 16 queries or, for the gradients of keys, 16 or 32 keys), and without much that
spills from the registers.
"""

from dataclasses import dataclass
from typing import Any

import torch

MAX_CHANNELS = {torch.float16: 128, torch.bfloat16: 128, torch.float32: 128}
SEGMENTS = (32, 16)
KERNELS = {
    "forward": "attention_forward",
    "queries": "attention_backward_queries",
    "keys": "attention_backward_keys",
}
"""The kernels by the name of their pass."""


@dataclass(frozen=True)
class Tile:
    """A tile of ``queries`` × ``keys`` logits.

    Attributes:
        queries: positions that attend.
        keys: positions that are attended to; whole segments of image rows.
        warps: of a program.
        stages: loads that are under way at once.
    """

    queries: int
    keys: int
    warps: int
    stages: int


def padded(channels: int) -> int:
    """Return the channels of a head as the tensor cores take them: a power of two, at least 16."""
    return max(16, 1 << (channels - 1).bit_length())


def segment_for(width: int, keys: int) -> int:
    """Return how many columns a tile of ``keys`` takes of an image row: those with the least padding."""
    return min((s for s in SEGMENTS if s <= keys), key=lambda s: (-(-width // s) * s, -s))


TILES = {
    ("forward", "half"): {48: Tile(128, 128, 8, 2), 128: Tile(128, 64, 8, 3), 256: Tile(128, 32, 8, 3)},
    ("queries", "half"): {48: Tile(128, 64, 8, 3), 256: Tile(128, 32, 8, 3)},
    ("keys", "half"): {
        48: Tile(32, 128, 4, 2),
        128: Tile(16, 128, 4, 2),
        192: Tile(16, 128, 8, 1),
        256: Tile(32, 64, 4, 3),
    },
    ("forward", "tf32"): {48: Tile(128, 64, 8, 3), 256: Tile(128, 32, 8, 2)},
    ("queries", "tf32"): {128: Tile(128, 32, 8, 2), 192: Tile(64, 32, 4, 2), 256: Tile(32, 16, 2, 1)},
    ("keys", "tf32"): {96: Tile(16, 128, 4, 2), 128: Tile(16, 128, 8, 1), 256: Tile(16, 32, 2, 1)},
    ("forward", "ieee"): {48: Tile(64, 32, 4, 1), 192: Tile(32, 32, 4, 1), 256: Tile(32, 32, 8, 1)},
    ("queries", "ieee"): {256: Tile(32, 32, 8, 1)},
    ("keys", "ieee"): {128: Tile(32, 32, 8, 1), 256: Tile(16, 32, 4, 1)},
}
"""Tiles by pass, arithmetic, and the largest number of padded channels, keys and values together, that they are for."""
ON_HOPPER = {
    ("forward", "half"): {256: Tile(128, 64, 8, 3)},
    ("queries", "half"): {128: Tile(128, 64, 8, 3), 256: Tile(128, 32, 8, 3)},
    ("keys", "half"): {128: Tile(32, 128, 4, 2), 256: Tile(16, 128, 8, 1)},
}
"""Tiles for compute capability 9 and 10, whose tensor cores read shared memory, of which they have more."""


def tile_for(name: str, arithmetic: str, channels: int, capability: int) -> Tile:
    """Return the tile of a pass.

    Args:
        name: "forward", "queries" or "keys".
        arithmetic: of the products of vectors, "half", "tf32" or "ieee".
        channels: of keys and values together, padded.
        capability: the major number of the card's compute capability.
    """
    tables = (ON_HOPPER, TILES) if capability in (9, 10) else (TILES,)
    tiles = next(table[name, arithmetic] for table in tables if (name, arithmetic) in table)
    return tiles[min(limit for limit in tiles if channels <= limit)]


def kernel_options(
    name: str, arithmetic: str, key_dim: int, value_dim: int, width: int, capability: int
) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel of a pass, for maps of ``width`` columns."""
    dims = {"DP": padded(key_dim), "DVP": padded(value_dim)}
    tile = tile_for(name, arithmetic, sum(dims.values()), capability)
    segment = segment_for(width, tile.keys)
    options = {
        "D": key_dim,
        "DV": value_dim,
        **dims,
        "QUERIES": tile.queries,
        "SEGMENT": segment,
        "ROWS": tile.keys // segment,
        "PRECISION": "ieee" if arithmetic == "ieee" else "tf32",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    return options | ({"ONE_SEGMENT": width <= segment} if name == "queries" else {})
