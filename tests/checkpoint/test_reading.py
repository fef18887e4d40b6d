"""Files that cannot be read for another reason than their content."""

from functools import partial
from pathlib import Path

import pytest
import torch
from forks import without_privileges

from lesa_d2.checkpoint.reading import read_checkpoint
from lesa_d2.errors import CheckpointError


def test_a_file_without_permission(tmp_path):
    file = tmp_path / "x.pth"
    torch.save({"model": {"weight": torch.ones(3)}}, file)
    file.chmod(0)
    text = without_privileges(partial(read_checkpoint, file), tmp_path / "log")
    assert text == f"checkpoint '{file}' cannot be read: Permission denied\n"


@pytest.mark.parametrize("content", [b"\x80\x02}.", b"\x10\0\0\0\0\0\0\0{"])
def test_a_disk_that_fails_after_the_first_bytes(tmp_path, monkeypatch, content):
    file = tmp_path / "x.pkl"
    file.write_bytes(content)

    def fail(self):
        raise OSError(5, "Input/output error", str(self))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(CheckpointError, match=r"x\.pkl' cannot be read: Input/output error"):
        read_checkpoint(file)
