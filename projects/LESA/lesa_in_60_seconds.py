#!/usr/bin/env python
"""Show LESA in 60 seconds: the layer, any size, the same results in less time, and maps of its trained terms.

Trains a small network of plain PyTorch around one LESA layer and draws its terms.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lesa_d2.quiet import leave_out_known_warnings

leave_out_known_warnings()  # before the libraries are imported

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lesa_d2.data import SHAPE_CLASSES
from lesa_d2.data.shapes import draw_object
from lesa_d2.layers import LESA, definition
from lesa_d2.tools.analysis import SeenImage, draw_term_maps, layer_maps

SIDE = 32  # pixels of a picture
PICTURES, BATCH, RATE = 1200, 32, 5e-3
SHOWN = 4  # pictures drawn at the end


def layer() -> None:
    """Show that LESA maps inputs of any size, as a 3×3 convolution does."""
    print("1. A layer like any other: what a bottleneck's 3×3 convolution maps, LESA maps")
    lesa, conv = LESA(256, 256, num_heads=8, feat_size=32), nn.Conv2d(256, 256, 3, padding=1, bias=False)
    for name, module in (("LESA", lesa), ("3×3", conv)):
        weights = sum(p.numel() for p in module.parameters())
        shape = tuple(module(torch.randn(1, 256, 32, 32)).shape)
        print(f"   {name:<5} (1, 256, 32, 32) -> {shape}, {weights:,} weights")
    print("2. Any size, although its tables of positions were made for 32×32:")
    for size in ((20, 31), (45, 17)):
        print(f"   {(1, 256, *size)} -> {tuple(lesa(torch.randn(1, 256, *size)).shape)}")


@torch.no_grad()
def exactness() -> None:
    """Compare the fast computation with the formula: results and time."""
    print("3. All pairs of 48×48 positions, without a map of all pairs:")
    lesa, x = LESA(256, 256, num_heads=8, feat_size=48).eval(), torch.randn(1, 256, 48, 48)
    expected = definition.lesa(lesa, x)
    difference = (expected - lesa(x)).abs().max() / expected.abs().max()
    ratio = seconds(lambda: definition.lesa(lesa, x)) / seconds(lambda: lesa(x))
    print(f"   {ratio:.1f} times as fast as the formula, equal to {difference:.0e} of the largest value")


def seconds(run: Callable[[], object], times: int = 3) -> float:
    """Return the seconds of the fastest of several runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


class Network(nn.Module):
    """Classify by two convolutions, LESA on an 8×8 map, and a linear layer, all in plain PyTorch."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*self._shrink(3, 32), *self._shrink(32, 64))
        self.lesa = LESA(64, 64, num_heads=4, feat_size=SIDE // 4)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _shrink(in_channels: int, out_channels: int) -> list[nn.Module]:
        conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K), of pictures (N, 3, S, S)."""
        x = self.stem(x)
        x = F.relu(x + self.lesa(x))
        return self.linear(x.mean((2, 3)))


def draw_pictures(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw pictures, (N, 3, S, S) uint8, of one shape each, and return them with their classes."""
    labels = np.arange(number) % len(SHAPE_CLASSES)
    drawn = [draw_object(np.random.default_rng([seed, i]), SIDE, c, i % 3) for i, c in enumerate(labels)]
    return torch.tensor(np.stack(drawn)).permute(0, 3, 1, 2), torch.tensor(labels)


def normalise(pictures: Tensor) -> Tensor:
    """Map values from 0 to 255 to values from -1 to 1."""
    return pictures.float() / 127.5 - 1


def train(steps: int) -> tuple[Network, Tensor]:
    """Train the network; return it with pictures that it was not trained on."""
    print("4. A small network of plain PyTorch around one LESA layer:")
    pictures, labels = draw_pictures(PICTURES, seed=0)
    unseen, answers = draw_pictures(PICTURES // 6, seed=1)
    network = Network(len(SHAPE_CLASSES))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for step in (bar := tqdm(range(steps), desc="   training", unit="step")):
        chosen = torch.randint(PICTURES, (BATCH,))
        flipped = pictures[chosen].flip(3) if step % 2 else pictures[chosen]
        loss = F.cross_entropy(network(normalise(flipped)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    with torch.no_grad():
        hits = (network.eval()(normalise(unseen)).argmax(1) == answers).float().mean()
    print(f"   {hits:.0%} of unseen pictures right, of {len(SHAPE_CLASSES)} classes")
    return network, unseen


def draw(network: Network, pictures: Tensor, folder: Path) -> None:
    """Draw the terms of the first pictures into ``folder``."""
    print("5. What each term looks at:")
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures[:SHOWN]):
        batch = normalise(picture[None])
        point = (SIDE / 2, SIDE / 2)
        seen = SeenImage(Path(f"picture {index}"), picture.permute(1, 2, 0).numpy(), batch, (SIDE, SIDE))
        file = draw_term_maps(
            seen, layer_maps(network, batch, [point]), [point], folder / f"terms_{index}.png"
        )
        print(f"   {file}")


def main() -> None:
    """Run all parts, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/lesa_in_60_seconds"), metavar="DIR")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="of training; default: 400")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"--steps must be at least 1, got {args.steps}")
    torch.manual_seed(0)
    layer()
    exactness()
    network, unseen = train(args.steps)
    draw(network, unseen, args.output)


if __name__ == "__main__":
    sys.exit(main())
