"""Processes that read data get no signal, and end with the process that started them."""

import subprocess
import sys

PROGRAM = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from lesa_d2.engine.stopping import start_reading

class Endless(Dataset):
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        return torch.zeros(300_000)

sys.modules["kept"] = batches = start_reading(DataLoader(Endless(), batch_size=4, num_workers=1))
print(next(batches).shape)
"""


def test_a_program_ends_that_has_not_read_all(tmp_path):
    """What is left in the pipe of a reader keeps it from ending, and Python waits for it."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([4, 300000])" in done.stdout
