import os
import signal
import time
from functools import partial

import pytest
import torch

from lesa_d2.tools.benchmark import Variant, measure
from lesa_d2.tools.benchmark.measure import extra_memory, megabytes

SILENT = dict(progress=lambda line: None)


def sleeping(mode, *, seconds):
    return partial(time.sleep, seconds if mode == "forward" else 2 * seconds)


def allocating(mode, *, megabytes):
    return partial(torch.ones, megabytes * 2**18)


def remembering(mode):
    torch.ones(2**26).sum()  # 256 MB while building
    return partial(torch.ones, 2**23)


def killed(mode):
    os.kill(os.getpid(), signal.SIGKILL)


def failing(mode):
    raise SystemExit(1)


def test_medians_of_every_variant_and_mode():
    variants = [Variant(f"{s}", partial(sleeping, seconds=s)) for s in (0.01, 0.03)]
    found = measure(variants, "cpu", rounds=3, **SILENT)
    assert [(m.mode, m.variant) for m in found] == [
        ("forward", "0.01"),
        ("forward", "0.03"),
        ("training", "0.01"),
        ("training", "0.03"),
    ]
    for m, wanted in zip(found, (0.01, 0.03, 0.02, 0.06), strict=True):
        assert len(m.runs) == 3
        assert wanted <= m.seconds < wanted + 0.2


def test_slow_variants_run_once():
    found = measure([Variant("slow", partial(sleeping, seconds=0.2))], "cpu", rounds=5, budget=0.1, **SILENT)
    assert [len(m.runs) for m in found] == [1, 1]


@pytest.mark.parametrize("size", [32, 128])
def test_memory_is_what_a_step_adds(size):
    extra = extra_memory(partial(allocating, megabytes=size), "forward", "cpu")
    assert size - 2 <= extra / 2**20 < size + 6


def test_memory_of_building_hides_nothing():
    assert 30 <= extra_memory(remembering, "forward", "cpu") / 2**20 < 38


def test_a_step_that_is_killed_is_not_measured():
    assert extra_memory(killed, "forward", "cpu") is None
    assert megabytes(None) == "not measured"


def test_a_step_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="failed in its own process"):
        extra_memory(failing, "forward", "cpu")
