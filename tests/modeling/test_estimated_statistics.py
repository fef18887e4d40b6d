"""Stored statistics estimated by us and by detectron2's hook, against values computed from the definition."""

import copy

import pytest
import torch
from busy_norm import busy_norm
from detectron2.engine.hooks import PreciseBN
from torch import nn

from lesa_d2.errors import LesaError
from lesa_d2.layers import LESA, EvalBatchNorm2d, StaticLESA
from lesa_d2.layers.definition import by_definition
from lesa_d2.layers.norm import BatchNorm
from lesa_d2.modeling import build_lesa_resnet, estimate_statistics, make_norm

NORMS = ["BN", "SyncBN", "EvalBN"]


def make_model(norm, positions):
    options = {"num_heads": 2, "feat_size": (4, 5), "positions": positions, "norm": make_norm(norm)}
    model = nn.Sequential(LESA(8, 8, **options), nn.ReLU(), StaticLESA(8, 8, stride=2, **options)).double()
    for module in norms_of(model):
        busy_norm(module)
    return model


def norms_of(model):
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def make_batches():
    return [
        torch.randn(n, 8, *size, dtype=torch.double) for n, size in [(2, (4, 5)), (1, (6, 3)), (3, (4, 4))]
    ]


def by_hand(model, batches):
    """Mean and variance of all inputs of every norm, each batch normalised by its own statistics."""
    twin = by_definition(copy.deepcopy(model)).train()
    seen = {norm: [] for norm in norms_of(twin)}
    for norm in seen:
        norm.momentum = 1.0
        norm.register_forward_pre_hook(
            lambda norm, args: seen[norm].append(args[0].transpose(0, 1).flatten(1))
        )
    with torch.no_grad():
        for batch in batches:
            twin(batch)
    values = [torch.cat(inputs, 1) for inputs in seen.values()]
    return [torch.mean(v, 1) for v in values], [torch.var(v, 1, correction=0) for v in values]


def stored(model):
    return [n.running_mean for n in norms_of(model)], [n.running_var for n in norms_of(model)]


def by_detectron2(model, batches):
    PreciseBN(0, model.train(), batches, len(batches)).update_stats()


@pytest.mark.parametrize("estimate", [by_detectron2, estimate_statistics])
@pytest.mark.parametrize("positions", ["decomposed", "flattened"])
@pytest.mark.parametrize("norm", NORMS)
def test_estimates_are_those_of_the_definition(norm, positions, estimate):
    model, batches = make_model(norm, positions), make_batches()
    expected = by_hand(model, batches)
    estimate(model, batches)
    torch.testing.assert_close(stored(model), expected)
    assert {n.momentum for n in norms_of(model)} == {0.1}


def test_the_stored_mean_of_one_batch_normalises_it():
    """With one batch, the model in eval mode computes what it computed while it was estimated."""
    model, batch = make_model("EvalBN", "decomposed"), make_batches()[0]
    estimate_statistics(model, [batch])
    assert not any(module.training != model.training for module in model.modules())
    ordinary = by_definition(copy.deepcopy(model)).train()
    for module in norms_of(ordinary):
        module.momentum = 1.0
    torch.testing.assert_close(model.eval()(batch), ordinary(batch))


def test_chosen_norms_alone_change():
    model, batches = make_model("EvalBN", "decomposed").train(), make_batches()
    before = copy.deepcopy(model.state_dict())
    estimate_statistics(model, batches, norms_of(model[2]))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("2.") for name in changed)
    assert all(module.training for module in model.modules())


def test_what_no_batch_reaches_stays():
    model = make_model("BN", "decomposed")
    model.unused = busy_norm(nn.BatchNorm2d(3))
    model.forward = lambda x: model[2](model[1](model[0](x)))
    before = copy.deepcopy(model.unused.state_dict())
    estimate_statistics(model, make_batches())
    torch.testing.assert_close(model.unused.state_dict(), before)


def test_a_failing_batch_leaves_modes_and_momenta():
    model = make_model("EvalBN", "decomposed").train()
    with pytest.raises(ValueError, match="expected maps"):
        estimate_statistics(model, [torch.randn(2, 5, 4, 4)])
    assert {n.momentum for n in norms_of(model)} == {0.1}
    assert all(module.training for module in model.modules())


def test_bad_arguments():
    model = make_model("BN", "decomposed")
    with pytest.raises(LesaError, match="at least one batch"):
        estimate_statistics(model, [])
    with pytest.raises(LesaError, match="expected batch norms with stored statistics, got Conv2d"):
        estimate_statistics(model, make_batches(), [model[0].unary.project])


@pytest.mark.parametrize("estimate", [by_detectron2, estimate_statistics])
def test_a_backbone_of_eval_norms(estimate):
    """Every norm outside the frozen stages is estimated; frozen ones are as they were."""
    model = build_lesa_resnet(
        "lesa", base_channels=16, blocks=(1, 1, 1, 1), image_size=64, freeze_at=2, norm="EvalBN"
    )
    frozen = {k: v.clone() for k, v in model.state_dict().items() if k.startswith(("stem", "res2"))}
    estimate(model, [torch.randn(2, 3, 64, 64) for _ in range(2)])
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in frozen.items())
    names = [name for name, norm in model.named_modules() if isinstance(norm, EvalBatchNorm2d)]
    changed = {n for n in names if state[f"{n}.running_mean"].any() and (state[f"{n}.running_var"] > 0).all()}
    assert {n for n in names if n not in changed} == {n for n in names if n.startswith(("stem", "res2"))}
