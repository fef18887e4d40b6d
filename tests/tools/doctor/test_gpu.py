"""The checks of the doctor that are for a GPU, on the CPU."""

import pytest
import torch
from runs import TINY

from lesa_d2.config import load_config
from lesa_d2.layers.attention import BACKENDS, Backend
from lesa_d2.layers.attention.reference import reference_attention
from lesa_d2.tools.doctor import Inputs
from lesa_d2.tools.doctor.gpu import Attended, check_attention, check_gpu

CPU = torch.device("cpu")


def test_the_attention_of_a_config_at_its_sizes_and_its_steps(datasets):
    """The small detector attends in res4 and res5."""
    cfg = load_config("quickstart_lesa", [*TINY, "train.device=cpu"])
    *attentions, steps = check_gpu(cfg, steps=2)
    assert [finding.name for finding in attentions] == ["attention res4, 4×4", "attention res5, 4×4"]
    assert all("(backend blockwise), on the CPU; error " in finding.state for finding in attentions)
    assert not any(finding.fix for finding in attentions)
    assert "s a step" in steps.state
    assert "steps take" in steps.state
    assert "waits" not in steps.state  # nobody waits for a CPU


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_backend_is_found(monkeypatch, dtype):
    one = Attended("res4", (6, 7), (4, 8), "bad")
    monkeypatch.setitem(BACKENDS, "bad", Backend(reference_attention))
    assert not check_attention(one, CPU, dtype).fix
    wrong = Backend(lambda q, *others: reference_attention(1.2 * q, *others))
    monkeypatch.setitem(BACKENDS, "bad", wrong)
    found = check_attention(one, CPU, dtype)
    assert "WRONG" in found.state
    assert "backend=blockwise" in found.fix


def test_without_a_gpu_it_is_one_finding():
    cfg = load_config("quickstart_lesa", [*TINY, "train.device=cuda"])
    if not torch.cuda.is_available():
        (found,) = check_gpu(cfg)
        assert "train.device=cpu" in found.fix


def test_it_needs_a_config():
    assert [finding.name for finding in Inputs(gpu=True).check() if finding.fix] == ["gpu"]
