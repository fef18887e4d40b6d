"""Shared by all tests."""

import os
from pathlib import Path

import pytest

# Several test processes share the cores; one thread each is fastest.  Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)
