"""One optimizer step, by hand."""

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from detectron2.structures import Boxes, Instances, PolygonMasks
from torch import nn

from lesa_d2.engine import Trainer
from lesa_d2.engine.metrics import StepStorage
from lesa_d2.errors import ConfigError, NonFiniteError


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
    with StepStorage(0) as trainer.storage:
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
    state = trainer.state_dict() | {"iteration": 0}
    _, other = step([[{"x": 1.0}]], precision="float16")
    other.load_state_dict(state)
    assert other.scaler.get_scale() == 8.0


def test_unknown_precision():
    with pytest.raises(ConfigError, match="float32"):
        step([[{"x": 1.0}]], precision="int8")


class Exploding(Square):
    """A finite loss with a gradient that is not finite."""

    def forward(self, data):
        return {"loss_root": (self.inner(torch.tensor([[data[0]["x"]]])) * 0).sqrt().sum()}


def test_a_gradient_that_is_not_finite_makes_no_step(monkeypatch):
    monkeypatch.setitem(globals(), "Square", Exploding)
    with pytest.raises(
        NonFiniteError, match=r"gradient's norm is nan; 1 parameters have such a gradient: inner\.weight"
    ):
        step([[{"x": 1.0}]])


def test_steps_that_may_be_left_out():
    bad, good = [{"x": float("nan"), "file_name": "bad.jpg"}], [{"x": 1.0}]
    model = Square()
    trainer = Trainer(
        model, [bad, bad, good, bad, bad, bad], torch.optim.SGD(model.parameters(), lr=0.1), skip_non_finite=2
    )
    with pytest.raises(NonFiniteError, match=r"iteration 5.*pictures: bad\.jpg"):
        trainer.train(0, 6)
    assert model.inner.weight.item() == pytest.approx(3 - 0.1 * 6)
    assert trainer.storage.latest()["total_loss"][1] == 2  # nothing was written of the others


def test_a_step_that_is_left_out_leaves_the_statistics_of_norms():
    """Else they would be not finite from then on, and no checkpoint could be written."""

    class Normed(Square):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, data):
            x = torch.tensor([[sample["x"]] for sample in data])
            return {"loss": self.norm(self.inner(x)).square().mean()}

    bad, good = [{"x": float("nan")}, {"x": 1.0}], [{"x": 2.0}, {"x": 1.0}]
    model, other = Normed(), Normed()
    for network, batches in ((model, [good, bad]), (other, [good])):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        Trainer(network, batches, optimizer, skip_non_finite=1).train(0, len(batches))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_batch_of_a_step_that_is_not_finite_is_kept(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    boxes = Instances((4, 4), gt_boxes=Boxes(torch.ones(1, 4)), gt_masks=PolygonMasks([[np.ones(6)]]))
    sample = {"x": float("nan"), "file_name": "bad.jpg", "instances": boxes}
    with pytest.raises(
        NonFiniteError, match=r"the batch is in .*rank0\.pth; last finite checkpoint: .*0000007\.pth"
    ):
        step([[sample]], output_dir=str(tmp_path))
    kept = torch.load(tmp_path / "non_finite_batch_rank0.pth", weights_only=True)
    assert kept["iteration"] == 0
    ((first,),) = kept["batches"]
    assert first["file_name"] == "bad.jpg"
    assert torch.equal(first["instances"]["gt_boxes"], torch.ones(1, 4))
    assert torch.equal(first["instances"]["gt_masks"][0][0], torch.ones(6, dtype=torch.float64))


def test_the_diagnosis_enters_no_collective_operation(monkeypatch, tmp_path):
    """Other processes do not take part in it: a norm that asks them would wait for ever."""
    seen = []

    class Asking(Square):
        def forward(self, data):
            seen.append(torch.distributed.is_initialized())
            return super().forward(data)

    monkeypatch.setitem(globals(), "Square", Asking)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(NonFiniteError, match="inner"):
            step([[{"x": float("nan")}]])
    finally:
        torch.distributed.destroy_process_group()
    assert seen == [True, False]


def test_after_an_error_nothing_is_evaluated_or_saved():
    seen = []

    class Hook(HookBase):
        def after_train(self):
            seen.append("end")

    trainer = Trainer(
        Square(), [[{"x": 1.0}], [{"x": float("nan")}]], torch.optim.SGD(Square().parameters(), lr=0.1)
    )
    trainer.register_hooks([Hook()])
    with pytest.raises(NonFiniteError):
        trainer.train(0, 2)
    assert seen == []
    assert trainer.last_step == 0


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        (lambda state: state.pop("optimizer"), KeyError, "optimizer"),
        (lambda state: state.pop("scaler"), KeyError, "scaler"),
        (lambda state: state.pop("iteration"), KeyError, "iteration"),
        (lambda state: state.update(iteration="7"), ValueError, "whole number"),
        (lambda state: state.update(iteration=-2), ValueError, "whole number"),
        (lambda state: state["optimizer"]["param_groups"].append({}), ValueError, "groups"),
        (
            lambda state: state["optimizer"]["param_groups"][0].pop("momentum"),
            ValueError,
            "another optimizer than SGD",
        ),
    ],
)
def test_states_that_cannot_be_continued(change, error, what):
    _, trainer = step([[{"x": 1.0}]])
    state = trainer.state_dict() | {"iteration": 0}
    change(state)
    with pytest.raises(error, match=what):
        step([[{"x": 1.0}]])[1].load_state_dict(state)


def test_float16_may_begin_at_a_resume(caplog):
    _, trainer = step([[{"x": 1.0}]])
    state = trainer.state_dict() | {"iteration": 0}
    _, other = step([[{"x": 0.1}]], precision="float16")
    with caplog.at_level("WARNING", "lesa_d2"):
        other.load_state_dict(state)
    assert "loss scaling starts anew" in caplog.text
