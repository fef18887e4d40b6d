"""The released checkpoints by their names and shapes, with values of our own."""

import json
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def value(name, shape):
    """Random, such that features keep their size through the whole model."""
    if name.endswith(("num_batches_tracked", "flatten_index")):
        return torch.randint(9, shape)
    if len(shape) > 1:
        return torch.randn(shape) / torch.Size(shape[1:]).numel() ** 0.5
    return 1 + 0.1 * torch.rand(shape)


@pytest.fixture(scope="session")
def released():
    """name of a manifest -> a state dict of its own, of values shared by all tests."""
    made = {}

    def make(name):
        if name not in made:
            shapes = json.loads((GOLDEN / f"manifest_{name}.json").read_text())
            made[name] = {key: value(key, shape) for key, shape in shapes.items()}
        return dict(made[name])

    return make
