"""A detector small enough to export in a test."""

import sys
from pathlib import Path

import pytest
from torch import nn

from lesa_d2.engine import load_config
from lesa_d2.engine.run import build_model
from lesa_d2.layers.deform import DeformableConv2d

sys.path.append(str(Path(__file__).resolve().parents[1] / "engine"))  # runs.py


def small_detector(*overrides):
    """The quick start's, tiny, with offsets of deformable convolutions that move something."""
    from runs import TINY

    model = build_model(load_config("quickstart_lesa", [*TINY, "train.device=cpu", *overrides])).eval()
    for module in model.modules():
        if isinstance(module, DeformableConv2d):
            nn.init.normal_(module.offset.weight, std=0.1)
    return model


@pytest.fixture(scope="module")
def model():
    """LESA whose unary term is deformable: every kind of layer that there is."""
    return small_detector("model.backbone.bottom_up.deformable=True")
