"""``make setup`` from inside an environment with PyTorch and detectron2, with made-up packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "lesa_d2/install_detectron2.py"


def make_environment(folder, *packages):
    """A virtual environment with these packages; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in packages:
        (site / package).mkdir()
        (site / package / "__init__.py").write_text(f"WHERE = {str(folder)!r}\n")
    # As an editable installation of detectron2 is: a folder named by a .pth file.
    (folder / "source/edited").mkdir(parents=True)
    (folder / "source/edited/__init__.py").touch()
    (site / "edited.pth").write_text(f"{folder / 'source'}\n")
    return folder / "bin/python"


def run(interpreter, *arguments):
    result = subprocess.run([str(interpreter), *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def found(interpreter, name):
    return run(interpreter, "-c", f"import importlib.util as u; print(u.find_spec({name!r}) is not None)")


def test_its_packages_are_used(tmp_path):
    active = make_environment(tmp_path / "active", "torch", "detectron2")
    ours = make_environment(tmp_path / "ours")
    assert run(active, SCRIPT, "--share", tmp_path / "ours").endswith(f"detectron2 of {tmp_path / 'active'}")
    for name in ("torch", "detectron2"):
        assert run(ours, "-c", f"import {name}; print({name}.WHERE)") == str(tmp_path / "active")
    assert found(ours, "edited") == "True"
    assert run(ours, SCRIPT) == "detectron2: using the one that is installed"


@pytest.mark.parametrize("packages", [(), ("torch",), ("detectron2",)], ids=str)
def test_an_environment_without_both_is_left_alone(packages, tmp_path):
    active = make_environment(tmp_path / "active", *packages)
    ours = make_environment(tmp_path / "ours")
    assert run(active, SCRIPT, "--share", tmp_path / "ours") == ""
    assert found(ours, "torch") == found(ours, "detectron2") == "False"


def test_make_shares_what_the_active_environment_has(tmp_path):
    """The commands of ``make setup``, up to the first that would reach the network."""
    active = make_environment(tmp_path / "active", "torch", "detectron2")
    # ``make test`` hands its own options and depth to every make below it.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment = {**inherited, "PATH": f"{active.parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", "--dry-run", "setup", f"VENV={tmp_path / 'ours'}"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()[:2]
    for line in (first + " --without-pip", second):
        subprocess.run(line, shell=True, cwd=ROOT, env=environment, check=True)
    assert run(tmp_path / "ours/bin/python", "-c", "import torch; print(torch.WHERE)") == str(
        tmp_path / "active"
    )


def test_help_installs_nothing(tmp_path):
    """The environment has no pip, so that an installation would fail."""
    told = run(make_environment(tmp_path / "empty"), SCRIPT, "--help")
    assert "usage: install_detectron2.py" in told
    assert "--share VENV" in told
