"""Processes that read data get no signal, and end with the process that started them."""

import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from lesa_d2.engine.stopping import start_reading

class Endless(Dataset):
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        return torch.zeros(300_000)

def read(name):
    sys.modules[name] = batches = start_reading(DataLoader(Endless(), batch_size=4, num_workers=4))
    print(next(batches).shape, flush=True)

read("kept")
if sys.argv[1] == "forked":
    forked = multiprocessing.get_context("fork").Process(target=read, args=["kept of the fork"])
    forked.start()
    forked.join()
"""


@pytest.mark.parametrize(("kind", "read"), [("alone", 1), ("forked", 2)])
def test_a_program_ends_that_has_not_read_all(kind, read):
    """What is left in the pipe of a reader keeps it from ending, and Python waits for it."""
    command = [sys.executable, "-c", PROGRAM, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("torch.Size([4, 300000])") == read
    assert "Traceback" not in done.stderr
