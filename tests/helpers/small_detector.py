"""A detector small enough to export in a test."""

from runs import TINY
from torch import nn

from lesa_d2.config import load_config
from lesa_d2.engine import build_model
from lesa_d2.layers.deform import DeformableConv2d


def small_detector(*overrides):
    """The quick start's, tiny, with offsets of deformable convolutions that move something."""
    model = build_model(load_config("quickstart_lesa", [*TINY, "train.device=cpu", *overrides])).eval()
    for module in model.modules():
        if isinstance(module, DeformableConv2d):
            nn.init.normal_(module.offset.weight, std=0.1)
    return model
