"""The released checkpoints by their names and shapes, with values of our own."""

import json
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="session")
def released():
    """name of a manifest -> a state dict whose every tensor is one random number, which takes no memory."""

    def make(name):
        shapes = json.loads((GOLDEN / f"manifest_{name}.json").read_text())
        return {key: torch.rand(()).expand(shape) for key, shape in shapes.items()}

    return make


@pytest.fixture(scope="session")
def randomised():
    """state dict -> one with values such that features keep their size through a whole model."""

    def value(shape):
        if len(shape) > 1:
            return torch.randn(shape) / shape[1:].numel() ** 0.5
        return 1 + 0.1 * torch.rand(shape)

    return lambda state_dict: {name: value(old.shape) for name, old in state_dict.items()}
