"""detectron2's own analysis, as its tools/analyze_model.py calls it, counts our attention."""

import pytest
import torch
from detectron2.utils.analysis import FlopCountAnalysis

from lesa_d2.modeling import build_lesa_resnet


@pytest.mark.parametrize("size", [64, 512])  # at 512 the attention runs block by block
def test_flops_of_attention(size):
    options = dict(base_channels=8, stem_channels=8, blocks=[1, 1, 2, 1], num_heads=2, image_size=64)
    model = build_lesa_resnet("lesa", **options).eval()
    counted = FlopCountAnalysis(model, (torch.zeros(1, 3, size, size),)).unsupported_ops_warnings(False)
    # a multiplication and an addition count as one; C of res4.1 and res5.0, whose attention is at stride 16
    expected = sum((size // 16) ** 4 * (channels // 2 + channels) for channels in (32, 64))
    assert counted.by_operator()["matmul"] == pytest.approx(expected, rel=0.05)
    assert not [name for name in counted.unsupported_ops() if "PythonOp" in name]
