"""Isolation between runs in one process."""

import logging

import pytest
from detectron2.utils.logger import setup_logger


@pytest.fixture(autouse=True)
def _fresh_loggers():
    """detectron2 keeps a handler for each output folder, on the standard output of its first user."""
    yield
    for name in ("detectron2", "fvcore", "lesa_d2"):
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """DETECTRON2_DATASETS in a folder of the test's."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    return tmp_path / "datasets"
