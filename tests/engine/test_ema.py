import pytest
import torch
from torch import nn

from lesa_d2.engine.ema import make_ema


def test_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.register_buffer("statistic", torch.zeros(1))
    ema = make_ema(model, decay=0.75)
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(model.weight, value)
        model.statistic.fill_(10 * value)
        ema.update_parameters(model)
    # the first step starts the average: 1, then 0.75*1 + 0.25*2, then 0.75*1.25 + 0.25*4
    assert ema.module.weight.item() == pytest.approx(1.9375)
    assert ema.module.statistic.item() == pytest.approx(19.375)


@pytest.mark.parametrize("decay", [0, 1, -0.5, 2])
def test_decay_must_be_a_share(decay):
    with pytest.raises(ValueError, match=r"train\.ema\.decay"):
        make_ema(nn.Linear(1, 1), decay)
