"""Saving and resuming the state of a run."""

import pytest
import torch
from torch import nn

from lesa_d2.checkpoint import RunCheckpointer, WeightsWriter, last_checkpoint
from lesa_d2.errors import CheckpointError


def run_of(folder, width=3):
    """A model after a step, with its optimizer, and their checkpointer."""
    model = nn.Linear(width, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(1, width)).sum().backward()
    optimizer.step()
    return model, optimizer, RunCheckpointer(model, str(folder), optimizer=optimizer)


def test_a_resumed_run_has_everything(tmp_path):
    model, optimizer, checkpointer = run_of(tmp_path)
    checkpointer.save("model_1", iteration=7)
    other, its_optimizer, resumed = run_of(tmp_path)
    report = resumed.resume()
    assert report.path == last_checkpoint(tmp_path) == str(tmp_path / "model_1.pth")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    for ours, theirs in zip(optimizer.state.values(), its_optimizer.state.values(), strict=True):
        assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"])


def test_what_a_checkpoint_lacks_stays(tmp_path):
    run_of(tmp_path)[2].save("model_1")
    model = nn.Linear(3, 2)
    extra = nn.Linear(1, 1)
    before = extra.weight.clone()
    RunCheckpointer(model, str(tmp_path), ema=extra).resume()
    assert torch.equal(extra.weight, before)


def test_another_model_is_refused_before_anything_changes(tmp_path):
    """The optimizer's own complaint about other parameters would hide the reason."""
    run_of(tmp_path, width=5)[2].save("model_1")
    model, _, checkpointer = run_of(tmp_path)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match="is not a checkpoint of this model"):
        checkpointer.resume()
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), (b"junk", "cannot be read")])
def test_a_checkpoint_that_is_gone_or_damaged(tmp_path, content, message):
    checkpointer = run_of(tmp_path)[2]
    checkpointer.save("model_1")
    (tmp_path / "model_1.pth").unlink()
    if content:
        (tmp_path / "model_1.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        checkpointer.resume()


def test_weights_beside_a_run_are_not_resumed(tmp_path):
    assert last_checkpoint(tmp_path) == ""
    model, _, checkpointer = run_of(tmp_path)
    WeightsWriter(model, str(tmp_path)).save("model_best")
    assert last_checkpoint(tmp_path) == ""
    checkpointer.save("model_1")
    WeightsWriter(model, str(tmp_path)).save("model_best")
    assert last_checkpoint(tmp_path) == str(tmp_path / "model_1.pth")
