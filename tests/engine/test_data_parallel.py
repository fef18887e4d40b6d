"""Training by several processes, which are copies of this one: 2 and 4 of them equal one."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from ranks import in_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from waits import CountWaits

from lesa_d2.config import load_config
from lesa_d2.engine import Trainer
from lesa_d2.engine.metrics import StepStorage
from lesa_d2.engine.processes import join_process_group
from lesa_d2.engine.training import distributed
from lesa_d2.errors import ConfigError, NonFiniteError


class Square(nn.Module):
    """Two losses of a linear layer, and a note."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        from detectron2.utils.events import get_event_storage

        out = self.layer(x)
        get_event_storage().put_scalar("mean", out.mean())
        return {"loss_square": out.square().mean(), "loss_size": out.abs().mean()}


def settings(*overrides):
    return load_config("quickstart_lesa", ["train.device=cpu", *overrides])


def batches():
    torch.manual_seed(1)
    return torch.randn(2, 4, 3, 2)  # steps, micro-batches, samples


def train_on(number, rank, batches=batches, **options):
    """Two steps of ``number`` processes over four micro-batches; model, storage, waits of a step of our files."""
    torch.manual_seed(0)
    model = distributed(Square(), settings())
    mine = [part for step in batches() for part in step[rank::number]]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, mine, optimizer, accumulate=4 // number, clip_grad_norm=1.0, **options)
    with StepStorage(0) as trainer.storage, CountWaits() as waits:
        for trainer.iter in range(2):
            trainer.storage.iter = trainer.iter
            trainer.run_step()
    return model, trainer.storage, waits.by("lesa_d2")


def outcome(number, rank):
    def no_gather(*args, **options):
        raise AssertionError("a gather in a step")

    comm.gather = comm.all_gather = no_gather
    model, storage, waits = train_on(number, rank)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    is_view = isinstance(model, DistributedDataParallel) and model.gradient_as_bucket_view
    return [p.detach() for p in model.parameters()], latest, sum(waits.values()), is_view


@pytest.mark.parametrize("number", [2, 4])
def test_processes_make_the_steps_of_one_without_a_gather(tmp_path, number):
    results = in_processes(number, tmp_path, partial(outcome, number))
    model, storage, _ = train_on(1, 0)
    for weights, latest, waits, is_view in results:
        torch.testing.assert_close(weights, [p.detach() for p in model.parameters()])
        assert waits == 2  # one a step
        assert is_view
        assert latest["grad_norm"] == pytest.approx(storage.latest()["grad_norm"][0])
    for name in ("total_loss", "loss_square", "loss_size"):
        assert results[0][1][name] == pytest.approx(storage.latest()[name][0])
        assert name not in results[1][1]
    notes = [latest["mean"] for _, latest, _, _ in results]
    assert len(set(notes)) == number  # each process has its own
    assert results[0][1]["data_time"] >= max(latest["rank_data_time"] for _, latest, _, _ in results) - 1e-6


def poisoned():
    data = batches()
    data[0, 1] = float("nan")  # of the second process
    return data


def left_out(rank):
    skipping, _, _ = train_on(2, rank, poisoned, skip_non_finite=1)
    try:
        train_on(2, rank, poisoned)
    except NonFiniteError as error:
        return [p.detach() for p in skipping.parameters()], str(error)


def test_processes_agree_on_a_loss_of_one_that_is_not_finite(tmp_path):
    results = in_processes(2, tmp_path, left_out)
    assert "a loss of another process is not finite" in results[0][1]
    assert "'loss_square': nan" in results[1][1]
    assert all(torch.equal(*pair) for pair in zip(results[0][0], results[1][0], strict=True))


def with_options(rank):
    options = ["train.ddp.static_graph=True", "train.ddp.bucket_cap_mb=1"]
    model = distributed(Square(), settings(*options, "train.ddp.gradient_as_bucket_view=False"))
    try:
        distributed(Square(), settings("train.ddp.bucket_cap_mb=[1,2]"))
    except ConfigError as error:
        refusal = str(error)
    return model.static_graph, model.bucket_bytes_cap, model.gradient_as_bucket_view, refusal


def test_options_reach_ddp(tmp_path):
    *reached, refusal = in_processes(2, tmp_path, with_options)[0]
    assert reached == [True, 2**20, False]
    assert "train.ddp" in refusal


@pytest.mark.parametrize("on_gpu", [False, True])
def test_nccl_knows_its_device_and_both_backends_a_timeout(monkeypatch, on_gpu):
    given = {}
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LESA_COLLECTIVE_TIMEOUT", "7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: given.update(current=device))
    monkeypatch.setattr(comm, "create_local_process_group", lambda number: given.update(number=number))
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **options: given.update(backend=backend, **options)
    )
    join_process_group()
    assert (given.pop("timeout").total_seconds(), given.pop("number")) == (7, 2)
    device = torch.device("cuda", 1)
    on_device = {"backend": "nccl", "device_id": device, "current": device}
    assert given == (on_device if on_gpu else {"backend": "gloo"})
