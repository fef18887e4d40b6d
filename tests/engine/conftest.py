"""Shared by tests of whole runs."""

import pytest


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """DETECTRON2_DATASETS in a folder of the test's."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    return tmp_path / "datasets"
