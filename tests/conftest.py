"""Shared by all tests."""

import os

import pytest

# Several test processes share the cores; one thread each is fastest.  Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST = "tests/docs/test_commands.py"


def pytest_collection_modifyitems(items):
    """Start the longest file first: each file runs in one process, and the others fill the rest of the time."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """DETECTRON2_DATASETS in a folder of the test's."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    return tmp_path / "datasets"
