"""The console entry: its commands, its one message, its exit status."""

import os
import re
import subprocess
import sys

import pytest
from runs import ROOT, lesa
from warm_python import program

from lesa_d2 import __version__
from lesa_d2.cli import COMMANDS
from lesa_d2.errors import ConfigError, exit_status

MORE = ("benchmark cost", "benchmark kernels", "compare operators", "compare detectors")


def test_help_names_every_command():
    done = lesa("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert {file.stem for file in (ROOT / "lesa_d2/commands").glob("[!_]*.py")} == set(COMMANDS)


@pytest.mark.parametrize(
    ("given", "advice"), [("trian", "did you mean 'train'"), ("xyz", "expected one of train, ")]
)
def test_an_unknown_command(given, advice):
    done = lesa(given)
    assert done.returncode == 2
    assert advice in done.stderr


def test_without_detectron2_every_command_says_how_to_install_it():
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'detectron2':\n"
        "            raise ModuleNotFoundError('No module named detectron2', name=name)\n"
        "sys.meta_path.insert(0, Missing)\n"
        "from lesa_d2.cli import COMMANDS, main\n"
        "print({name: main([name]) for name in COMMANDS if name != 'doctor'})"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    others = [name for name in COMMANDS if name != "doctor"]
    assert done.stdout.strip() == str(dict.fromkeys(others, 2)), done.stderr
    told = done.stderr.splitlines()
    assert len(told) == len(others)
    for name, line in zip(others, told, strict=True):
        assert f"lesa {name} needs it" in line
        assert f"{sys.executable} -m lesa_d2.install_detectron2" in line


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["zoo", "--help", "--version"])
def test_a_reader_that_has_gone_is_no_error(command, unbuffered):
    pipe = f"set -o pipefail; {sys.executable} -W ignore -m lesa_d2.cli {command} | true"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, cwd=ROOT, env=env)
    assert (done.returncode, done.stderr) in ((141, ""), (0, ""))  # 0: all was written before


def test_another_broken_pipe_is_an_error():
    def run():
        raise BrokenPipeError("of a worker")

    with pytest.raises(BrokenPipeError):
        exit_status(run)


def test_version():
    assert lesa("--version").stdout == f"lesa_d2 {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    assert lesa(command, "--help").returncode == 0


@pytest.mark.parametrize(
    "script", ["benchmark", "demo", "export", "convert_checkpoint", "inspect_terms", "compare_operators"]
)
def test_scripts_of_the_repository_call_the_commands(script):
    file = ROOT / f"projects/LESA/{script}.py"
    done = subprocess.run([program(), file, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage: lesa " in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n\nmodel = (", "broken.py:3: SyntaxError"),
        (
            "import os\nmodel = nothing_like_it",
            "broken.py:2: NameError: name 'nothing_like_it' is not defined",
        ),
        ("from .beside import model", "beside.py:2: ZeroDivisionError"),
        ("from .cut import model", "cut.py:1: SyntaxError"),
    ],
)
def test_a_mistake_in_a_config_keeps_its_file_and_line(text, message, tmp_path):
    (tmp_path / "broken.py").write_text(text)
    (tmp_path / "beside.py").write_text("model = 1\nmodel = 1 / 0\n")
    (tmp_path / "cut.py").write_text("model = (\n")
    done = lesa("train", "--config-file", tmp_path / "broken.py")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    from lesa_d2.config import load_config

    load_config("quickstart_lesa")  # detectron2's reader of configs is as it was


OWN = """
from lesa_d2 import model_zoo
from lesa_d2.layers import SlotOperator

class Mine(SlotOperator):
    def build(self, norm):
        self.unary = self.make_unray(norm)
    def combine(self, x):
        return self.unary(x)

cfg = model_zoo.get_config("quickstart_lesa")
model, dataloader, train, optimizer, lr_multiplier = (
    cfg[name] for name in ("model", "dataloader", "train", "optimizer", "lr_multiplier")
)
model.backbone.bottom_up.operator = Mine
"""


def test_a_mistake_in_a_model_of_ones_own_keeps_its_file_and_line(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    (tmp_path / "mine.py").write_text(OWN)
    small = [f"dataloader.{part}.dataset.names.num_images=2" for part in ("train", "test")]
    done = lesa("train", "--config-file", tmp_path / "mine.py", *small, f"train.output_dir={tmp_path}")
    assert done.returncode == 2
    assert "mine.py:7: AttributeError: 'Mine' object has no attribute 'make_unray'" in done.stderr


def test_the_traceback_on_request(monkeypatch, capsys):
    def fail():
        raise ConfigError("too short")

    assert exit_status(fail) == 2
    assert capsys.readouterr().err == "error: too short\n"
    monkeypatch.setenv("LESA_TRACEBACK", "1")
    assert exit_status(fail) == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "raise ConfigError" in printed


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_the_help_of_trainings_is_of_this_program(command):
    text = " ".join(lesa(command, "--help").stdout.split())
    assert f"usage: lesa {command} " in text
    assert "DefaultTrainer" not in text
    assert "PATH.KEY VALUE" not in text
    for told in (
        "--resume continue from the last checkpoint in",
        "overrides of the config, such as train.max",
    ):
        assert told in text


@pytest.mark.parametrize("words", [*([command] for command in COMMANDS), *map(str.split, MORE)], ids=" ".join)
def test_defaults_in_the_help_are_values(words):
    text = lesa(*words, "--help").stdout
    assert "default: None" not in " ".join(text.split())
    assert "``" not in text  # the marks of docstrings


def test_a_yacs_file_is_told_where_it_trains():
    done = lesa("train", "--config-file", ROOT / "configs/yacs/mask_rcnn_lesa_r50.yaml")
    assert done.returncode == 2
    page, title = re.search(r'(docs/\S+), "([^"]+)"', done.stderr).groups()
    assert f"## {title}\n" in (ROOT / page).read_text(encoding="utf-8")
