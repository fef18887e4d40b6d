"""Running statistics move once a step, whatever repeats a forward pass."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lesa_d2.layers import LESA
from lesa_d2.layers.checkpointing import statistics_once


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(reentrant):
    """PyTorch's own checkpointing around the operator: same gradients, statistics moved once."""
    torch.manual_seed(0)
    plain = LESA(8, 8, num_heads=2, feat_size=4).double().train()
    other = copy.deepcopy(plain)
    for _ in range(2):  # two steps of accumulation
        x = torch.randn(2, 8, 4, 5, dtype=torch.double)
        plain(x).square().sum().backward()
        checkpoint(other, x.requires_grad_(), use_reentrant=reentrant).square().sum().backward()
    torch.testing.assert_close(dict(other.named_buffers()), dict(plain.named_buffers()))
    assert other.binary.logit_norm.num_batches_tracked == 2
    for (name, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=lambda m, name=name: f"{name}: {m}")
    assert {m.momentum for m in other.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_statistics_move_in_an_ordinary_forward_pass():
    norm = nn.BatchNorm2d(2)
    with statistics_once(norm):
        norm(torch.randn(4, 2, 3, 3))
    assert norm.num_batches_tracked == 1
