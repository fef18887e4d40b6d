import pytest
import torch
from launches import CountCalls
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from waits import CountWaits

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


class Counting(nn.Module):
    """Parameters and buffers of several kinds."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("wide", torch.zeros(2, dtype=torch.double))


def test_whole_numbers_are_those_of_the_last_step():
    model = Counting()
    ema = make_ema(model, decay=0.75)
    for number in (1, 2, 7):
        model.norm.num_batches_tracked.fill_(number)
        ema.update_parameters(model)
        assert ema.module.norm.num_batches_tracked == number
    assert ema.n_averaged == 3
    assert not any(p.requires_grad for p in ema.parameters())


def test_a_step_is_three_launches_and_no_wait():
    model = Counting()
    ema = make_ema(model, decay=0.75)
    ema.update_parameters(model)
    with CountWaits() as waits, CountCalls() as calls:
        ema.update_parameters(model)
    assert not waits.waits
    assert {name: number for name, number in calls.calls.items() if name != "detach"} == {
        "_foreach_lerp_": 1,
        "_foreach_copy_": 1,
        "add_": 1,
    }


def test_the_state_is_that_of_an_averaged_model():
    """A run that PyTorch's class has averaged goes on."""
    model, old = Counting(), None
    old = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    ema = make_ema(Counting(), 0.75)
    for _ in range(2):
        nn.init.normal_(model.linear.weight)
        old.update_parameters(model)
    ema.load_state_dict(old.state_dict())
    nn.init.normal_(model.linear.weight)
    for average in (old, ema):
        average.update_parameters(model)
    assert list(ema.state_dict()) == list(old.state_dict())
    for name, value in old.state_dict().items():
        assert torch.equal(ema.state_dict()[name], value), name
