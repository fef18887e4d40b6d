"""What depends on the machine."""

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lesa_d2.engine.device import cudnn_benchmark, fuse_optimizer, keep_ways


class Own(torch.optim.SGD):
    """An optimizer that cannot be fused."""

    def __init__(self, params, lr):
        super().__init__(params, lr)


def settings(kind, device="cuda", **options):
    optimizer = {"_target_": f"{kind.__module__}.{kind.__qualname__}", "lr": 0.1, **options}
    return OmegaConf.create({"optimizer": optimizer, "train": {"device": device}})


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_optimizers_are_fused_on_a_gpu_where_nothing_else_is_said(kind):
    for cfg, fused in (
        (settings(kind), True),
        (settings(kind, "cuda:1"), True),
        (settings(kind, "cpu"), None),
        (settings(kind, foreach=False), None),
        (settings(kind, fused=False), False),
        (settings(kind, differentiable=True), None),
        (settings(torch.optim.RMSprop), None),
        (settings(Own), None),
    ):
        fuse_optimizer(cfg)
        assert cfg.optimizer.get("fused") == fused


@pytest.mark.parametrize("fused", [None, True])
def test_a_state_of_another_machine_continues_here_in_the_same_way(fused):
    """A saved optimizer that was not fused keeps its number of steps where a fused one cannot read it."""
    steps = {}
    for ways in ((fused, fused), (fused, None if fused else True)):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        for way in ways:
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=way)
            optimizer.register_load_state_dict_pre_hook(keep_ways)
            if steps.get("state"):
                optimizer.load_state_dict(steps.pop("state"))
            assert optimizer.param_groups[0]["fused"] is way
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
            steps["state"] = copy.deepcopy(optimizer.state_dict())
        del steps["state"]
        steps[ways] = [p.detach() for p in model.parameters()]
    torch.testing.assert_close(*steps.values())


def test_the_benchmark_of_cudnn_is_as_before_afterwards():
    before = torch.backends.cudnn.benchmark
    with cudnn_benchmark(True):
        with cudnn_benchmark(False):
            assert not torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before
