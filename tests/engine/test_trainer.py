"""One optimizer step, by hand."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from lesa_d2.engine import Trainer
from lesa_d2.errors import ConfigError


class Square(nn.Module):
    """loss = mean((w·x)²); poisoned inputs make the inner layer return NaN."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.inner.weight, 3.0)
        self.outer = nn.Identity()

    def forward(self, data):
        x = torch.tensor([[sample["x"]] for sample in data])
        noise = torch.rand(())
        return {"loss_square": self.outer(self.inner(x)).square().mean(), "loss_noise": 0 * noise}


def step(batches, rate=0.1, **options):
    model = Square()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    trainer = Trainer(model, batches, optimizer, **options)
    with EventStorage(0) as trainer.storage:
        trainer.iter = 0
        trainer.run_step()
        return model.inner.weight.item(), trainer


def test_one_step_by_hand():
    # d/dw mean((w x)²) = 2 w mean(x²) = 2·3·(1 + 4)/2 = 15
    weight, _ = step([[{"x": 1.0}, {"x": 2.0}]])
    assert weight == pytest.approx(3 - 0.1 * 15)


def test_accumulated_micro_batches_average():
    weight, trainer = step([[{"x": 1.0}], [{"x": 2.0}]], accumulate=2)
    assert weight == pytest.approx(3 - 0.1 * 15)
    assert trainer.storage.latest()["total_loss"][0] == pytest.approx(9 * 2.5)


def test_clipping_limits_the_gradient():
    weight, trainer = step([[{"x": 1.0}, {"x": 2.0}]], clip_grad_norm=2.0)
    assert weight == pytest.approx(3 - 0.1 * 2, rel=1e-4)
    assert trainer.storage.latest()["grad_norm"][0] == pytest.approx(15)


def test_bfloat16_steps_like_float32():
    weight, _ = step([[{"x": 1.0}, {"x": 2.0}]], precision="bfloat16", clip_grad_norm=100.0)
    assert weight == pytest.approx(3 - 0.1 * 15, rel=1e-2)


def test_float16_skips_a_step_that_overflows_and_lowers_its_scale():
    weight, trainer = step([[{"x": 1.0}, {"x": 2.0}]], precision="float16", clip_grad_norm=100.0)
    assert weight == 3.0  # the gradient of 15 at the first scale of 65536 exceeds float16
    assert trainer.scaler.get_scale() == 32768
    weight, _ = step([[{"x": 0.1}, {"x": 0.2}]], precision="float16", clip_grad_norm=100.0)
    assert weight == pytest.approx(3 - 0.1 * 0.15, rel=1e-2)


def test_non_finite_loss_names_the_module():
    with pytest.raises(FloatingPointError, match=r"iteration 0.*first non-finite output: inner \(Linear\)"):
        step([[{"x": float("nan")}]])


class Refusing(Square):
    """As detectron2's proposal generator, raises by itself once something is not finite."""

    def forward(self, data):
        losses = super().forward(data)
        if not torch.isfinite(losses["loss_square"]):
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN")
        return losses


def test_detectron2s_own_complaint_names_the_module_too(monkeypatch):
    monkeypatch.setitem(globals(), "Square", Refusing)
    with pytest.raises(FloatingPointError, match=r"contain Inf/NaN; first non-finite output: inner"):
        step([[{"x": float("nan")}]])


def test_state_of_loss_scaling_is_saved():
    _, trainer = step([[{"x": 1.0}]], precision="float16")
    trainer.scaler._scale = torch.tensor(8.0)
    state = trainer.state_dict()
    _, other = step([[{"x": 1.0}]], precision="float16")
    other.load_state_dict(state)
    assert other.scaler.get_scale() == 8.0


def test_unknown_precision():
    with pytest.raises(ConfigError, match="float32"):
        step([[{"x": 1.0}]], precision="int8")
