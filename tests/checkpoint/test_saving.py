"""Saving and resuming the state of a run."""

import os

import pytest
import torch
from torch import nn

from lesa_d2.checkpoint import RunCheckpointer, WeightsWriter, checkpoint_files, last_checkpoint
from lesa_d2.checkpoint.reading import read_checkpoint
from lesa_d2.errors import CheckpointError, NonFiniteError


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


class Part:
    """A part of a run that has a number as its state."""

    def __init__(self, number=0):
        self.number = number

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


def saved(folder, *names):
    """Checkpoints of one model, each with its place in ``names`` as the state of its part."""
    torch.manual_seed(0)
    model, part = nn.Linear(3, 2), Part()
    checkpointer = RunCheckpointer(model, str(folder), part=part)
    for part.number, name in enumerate(names):
        checkpointer.save(name)
    return model


def resumed(folder):
    """The number of the checkpoint that is continued."""
    part = Part(-1)
    RunCheckpointer(nn.Linear(3, 2), str(folder), part=part).resume()
    return part.number


def flip(file, place):
    """Change a bit of a file."""
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 16
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-50])


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: flip(f, 0.5),
        cut,
        lambda f: f.write_bytes(b""),
        lambda f: f.write_text("junk"),
        lambda f: f.unlink(),
    ],
)
def test_the_newest_checkpoint_that_can_be_read_is_continued(tmp_path, damage, caplog):
    saved(tmp_path, "model_0000009", "model_0000019", "model_0000029")
    damage(tmp_path / "model_0000029.pth")
    with caplog.at_level("WARNING", "lesa_d2"):
        assert resumed(tmp_path) == 1
    assert "model_0000029.pth" in caplog.text
    assert "Continued from" in caplog.text
    assert "model_0000019.pth, the newest" in caplog.text


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, place):
    """torch.load reads no checksums."""
    torch.save({"model": {"weight": torch.arange(5000.0)}}, tmp_path / "x.pth")
    flip(tmp_path / "x.pth", place)
    with pytest.raises(CheckpointError, match=r"is damaged: .* has changed since it was written"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b"\0", b"a\nb"])
def test_a_record_that_cannot_be_read_is_ignored(tmp_path, record, caplog):
    saved(tmp_path, "model_0000009", "model_0000019")
    (tmp_path / "last_checkpoint").write_bytes(record)
    with caplog.at_level("WARNING", "lesa_d2"):
        assert resumed(tmp_path) == 1
    assert "last_checkpoint cannot be read and is not used" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path, value):
    model = saved(tmp_path, "model_final")
    before = (tmp_path / "model_final.pth").read_bytes()
    with torch.no_grad():
        model.weight[0, 0] = value
    for write in (RunCheckpointer(model, str(tmp_path)), WeightsWriter(model, str(tmp_path))):
        with pytest.raises(
            NonFiniteError, match=r"model_final\.pth is not written: 1 of its tensors .*weight"
        ):
            write.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before


def test_a_mask_may_be_infinite(tmp_path):
    model = nn.Linear(3, 2)
    model.register_buffer("mask", torch.full((2,), -float("inf")))
    WeightsWriter(model, str(tmp_path)).save("model_final")
    assert (tmp_path / "model_final.pth").exists()


def test_weights_alone_are_not_the_state_of_a_run(tmp_path):
    model = saved(tmp_path, "model_final")
    with pytest.raises(CheckpointError, match=r"not the state of a run.*train\.init_checkpoint="):
        RunCheckpointer(model, str(tmp_path), trainer=Part()).resume()


@pytest.mark.parametrize("state", [{}, None, 7, [], {"number": []}, "x"])
def test_a_part_of_another_kind(tmp_path, state):
    torch.save(
        {"model": saved(tmp_path, "model_final").state_dict(), "part": state}, tmp_path / "model_final.pth"
    )
    if state == {"number": []}:
        assert resumed(tmp_path) == []
        return
    with pytest.raises(CheckpointError, match="the state of 'part' is not that of this run"):
        resumed(tmp_path)


def test_order_of_the_files(tmp_path):
    saved(tmp_path, "model_0000009", "model_0000019", "model_final")
    names = ["model_final.pth", "model_0000019.pth", "model_0000009.pth"]
    assert checkpoint_files(tmp_path) == [str(tmp_path / name) for name in names]
    (tmp_path / "last_checkpoint").unlink()
    os.utime(tmp_path / "model_final.pth", (1, 1))  # of an earlier, shorter run
    assert checkpoint_files(tmp_path) == [str(tmp_path / names[i]) for i in (1, 2, 0)]


def test_where_nothing_can_be_read_the_reason_stands_once(tmp_path, caplog):
    checkpointer = run_of(tmp_path)[2]
    names = ["model_0000001.pth", "model_0000002.pth", "model_final.pth"]
    for name in names:
        (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(CheckpointError) as caught:
        checkpointer.resume()
    assert str(caught.value).count("expected a file of plain tensors") == 1
    assert all(name in str(caught.value) for name in names)
    assert "Not continued from" not in caplog.text
