"""States of a run with values of other kinds than it has, which PyTorch would take over."""

import copy

import pytest
import torch
from torch import nn

from lesa_d2.engine import Trainer


class Counting(nn.Module):
    """Keeps a number as detectron2's one-stage detectors do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.unused = nn.Linear(1, 1)
        self.seen = 0

    def forward(self, data):
        self.seen, self.mean = self.seen + 1, getattr(self, "mean", 1) + 0.5  # made here, as RetinaNet's
        return self.layer(torch.ones(4, 3)).square().mean()


def trainer_of(kind, steps=2, **options):
    model = Counting()
    trainer = Trainer(model, [None] * steps, kind(model.parameters(), lr=0.1), **options)
    if steps:
        trainer.train(0, steps)
    return trainer


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


KINDS = [
    torch.optim.AdamW,
    torch.optim.SGD,
    momentum,
    torch.optim.Adagrad,
    torch.optim.RMSprop,
    torch.optim.NAdam,
    torch.optim.Adafactor,
    torch.optim.ASGD,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_state_as_it_was_written_is_taken(kind, precision):
    before = trainer_of(kind, precision=precision)
    state = copy.deepcopy(before.state_dict())
    after = trainer_of(kind, 0, precision=precision)
    after.load_state_dict(state)
    assert (after.last_step, after.model.seen, after.model.mean) == (1, 2, 2.0)
    theirs = after.optimizer.state_dict()
    for key, values in before.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(theirs["state"][key][name], value)


def entry(state):
    return state["optimizer"]["state"][0]


def group(state):
    return state["optimizer"]["param_groups"][0]


BROKEN = {
    "moments of another shape": (lambda s: entry(s).update(exp_avg=torch.zeros(7)), r"exp_avg .* \(7,\)"),
    "moments missing": (lambda s: entry(s).pop("exp_avg"), "lacks exp_avg"),
    "a text as moments": (lambda s: entry(s).update(exp_avg="x"), "exp_avg .* is 'x'"),
    "a text as step": (lambda s: entry(s).update(step="x"), "step .* is 'x'"),
    "a list as entry": (lambda s: s["optimizer"]["state"].update({0: [1]}), r"parameter 0 is \[1\]"),
    "an entry too many": (lambda s: s["optimizer"]["state"].update({9: {}}), "that there are not: 9"),
    "no entries": (lambda s: s["optimizer"].update(state={}), "all parameters is missing"),
    "betas": (lambda s: group(s).update(betas=3), "betas must be of the kind"),
    "three betas": (lambda s: group(s).update(betas=(0.9, 0.9, 0.9)), "betas must be of the kind"),
    "a text as lr": (lambda s: group(s).update(lr="x"), "lr must be"),
    "lr not finite": (lambda s: group(s).update(lr=float("nan")), "lr must be"),
    "initial_lr": (lambda s: group(s).update(initial_lr="x"), "initial_lr must be"),
    "no eps": (lambda s: group(s).pop("eps"), "another optimizer than AdamW: no eps"),
    "other parameters": (lambda s: group(s).update(params=[0, 1, 2, 2]), "not those of the model"),
    "parameters as text": (lambda s: group(s).update(params="0123"), "not those of the model"),
    "two groups": (lambda s: s["optimizer"]["param_groups"].append({}), "other groups"),
    "a number of no module": (lambda s: s["numbers"].update({"foo.seen": 3}), r"no number 'foo\.seen'"),
    "a module as number": (lambda s: s["numbers"].update(layer=3), "no number 'layer'"),
    "a method as number": (
        lambda s: s["numbers"].update({"layer.forward": 3}),
        r"no number 'layer\.forward'",
    ),
    "a text as number": (lambda s: s["numbers"].update(mean="x"), "mean must be a finite number"),
    "a truth as number": (lambda s: s["numbers"].update(seen=True), "seen must be a finite number"),
    "a number not finite": (lambda s: s["numbers"].update(mean=float("inf")), "mean must be a finite number"),
    "too many steps": (lambda s: s.update(iteration=10**12), "expected a whole number from 0"),
    "scale": (lambda s: s["scaler"].update(scale="x"), "scale of the loss scaling"),
    "scale of 0": (lambda s: s["scaler"].update(scale=0.0), "scale of the loss scaling"),
    "growth interval": (lambda s: s["scaler"].update(growth_interval=0.5), "growth_interval of the loss"),
    "no growth factor": (lambda s: s["scaler"].pop("growth_factor"), "growth_factor"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_values_of_other_kinds_are_refused_before_anything_changes(case):
    spoil, message = BROKEN[case]
    precision = "float16" if "scal" in message or "growth" in message else "float32"
    state = copy.deepcopy(trainer_of(torch.optim.AdamW, precision=precision).state_dict())
    spoil(state)
    after = trainer_of(torch.optim.AdamW, 0, precision=precision)
    with pytest.raises((ValueError, KeyError), match=message):
        after.load_state_dict(state)
    assert (after.last_step, after.model.seen, after.optimizer.state_dict()["state"]) == (-1, 0, {})


@pytest.mark.parametrize("options", [{"skip_non_finite": 1}, {"precision": "float16"}])
def test_a_run_whose_steps_were_all_left_out_is_continued(options, caplog):
    state = copy.deepcopy(trainer_of(torch.optim.AdamW, **options).state_dict())
    state["optimizer"]["state"] = {}
    with caplog.at_level("WARNING", "lesa_d2"):
        trainer_of(torch.optim.AdamW, 0, **options).load_state_dict(state)
    assert "no state of the optimizer for 4 of 4 parameters" in caplog.text


def test_parameters_without_a_state_are_named(caplog):
    state = copy.deepcopy(trainer_of(torch.optim.AdamW).state_dict())
    with caplog.at_level("WARNING", "lesa_d2"):
        trainer_of(torch.optim.AdamW, 0).load_state_dict(state)
    assert "for 2 of 4 parameters" in caplog.text
    assert "2 of shape (1, 1), 3 of shape (1,)" in caplog.text
