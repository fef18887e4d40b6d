"""Shared by the tests of exporting."""

import pytest
from small_detector import small_detector


@pytest.fixture(scope="module")
def model():
    """LESA whose unary term is deformable: every kind of layer that there is."""
    return small_detector("model.backbone.bottom_up.deformable=True")
