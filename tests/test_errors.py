"""What becomes of errors that parts of a config raise."""

import runpy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lesa_d2.errors import ConfigError, parts_fit

USER = """
import torch

class Head(torch.nn.Module):
    def forward(self, x):
        return self.nothing(x)

def misfit(record):
    return record["my_key"]
"""


def call_nothing():
    return nn.Identity()(1, 2)


def multiply():
    return nn.Linear(3, 4)(torch.zeros(1, 5))


def convolve():
    return nn.Conv2d(64, 3, 1)(torch.zeros(1, 32, 4, 4))


def assert_without_text():
    exec(compile("assert False", "<string>", "exec"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (call_nothing, "TypeError: "),
        (multiply, "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (convolve, "RuntimeError: Given groups=1"),
        (assert_without_text, "AssertionError in <module>"),
    ],
)
def test_parts_that_do_not_fit_are_one_message(monkeypatch, call, words):
    monkeypatch.setattr("lesa_d2.errors._frames_of_user", lambda error: [])  # this file is a user's
    with (
        pytest.raises(
            ConfigError, match=r"evaluation failed, .* parts of model do not fit together: "
        ) as raised,
        parts_fit("evaluation", "model"),
    ):
        call()
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access"), ValueError("shapes")]
)
def test_other_errors_stay_what_they_are(monkeypatch, error):
    monkeypatch.setattr("lesa_d2.errors._frames_of_user", lambda error: [])
    with pytest.raises(type(error), match=str(error)), parts_fit("evaluation", "model"):
        raise error


@pytest.fixture
def user(tmp_path):
    """Definitions in a file of the user's."""
    file = tmp_path / "users.py"
    file.write_text(USER)
    return runpy.run_path(str(file))


def test_errors_of_a_users_file_are_shown_whole(user):
    with pytest.raises(AttributeError, match="nothing"), parts_fit("evaluation", "model"):
        user["Head"]()(1)


class Records:
    """Records, each through a function of the user's."""

    def __init__(self, function):
        self.function = function

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.function({})


def test_errors_of_a_users_file_in_a_process_that_reads_are_shown_whole(user, monkeypatch):
    monkeypatch.setattr("lesa_d2.errors.os.path.isfile", lambda path: path.endswith("users.py"))
    loader = DataLoader(Records(user["misfit"]), num_workers=1)
    with pytest.raises(KeyError, match="my_key"), parts_fit("evaluation", "model"):
        next(iter(loader))


def test_errors_of_the_script_that_is_run_are_the_users(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"from lesa_d2.errors import parts_fit\n{USER}\nwith parts_fit('a', 'b'):\n    Head()(1)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert "AttributeError" in done.stderr.splitlines()[-1]
    assert "ConfigError" not in done.stderr


def test_libraries_outside_of_the_installed_packages_are_no_users(tmp_path, monkeypatch):
    (tmp_path / "fvcore").mkdir()
    file = tmp_path / "fvcore/__init__.py"
    file.write_text("def misfit():\n    return {}['key']\n")
    library = runpy.run_path(str(file))
    monkeypatch.setattr(sys.modules["fvcore"], "__file__", str(file))
    monkeypatch.setattr("lesa_d2.errors.os.path.isfile", lambda path: path == str(file))
    with pytest.raises(ConfigError, match="KeyError: 'key'"), parts_fit("the first step", "model"):
        library["misfit"]()
