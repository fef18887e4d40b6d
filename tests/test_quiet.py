"""Commands say nothing about the code of libraries, and keep what is said about a user's."""

import logging
import re
import sys
import warnings

import pytest
from runs import ROOT, TINY, train_net

from lesa_d2.quiet import LOGGED, leave_out_known_warnings

CONFIG = f"""
import warnings
from lesa_d2.config import load_config

warnings.warn("of the user's config")
warnings.warn("pkg_resources is deprecated as an API, says a config")
cfg = load_config("{ROOT}/configs/quickstart_lesa.py")
model, dataloader, train, optimizer, lr_multiplier = (
    cfg[name] for name in ("model", "dataloader", "train", "optimizer", "lr_multiplier")
)
"""
SAID = (
    ("pkg_resources is deprecated as an API.", UserWarning, "detectron2.model_zoo.model_zoo"),
    ("`torch.jit.script` is deprecated. Please", FutureWarning, "torch.jit._script"),
    ("torch.meshgrid: in an upcoming release, it", UserWarning, "torch.functional"),
    ("The given NumPy array is not writable, and", UserWarning, "detectron2.data.detection_utils"),
    ("Iterating over a tensor might cause the", UserWarning, "detectron2.structures.boxes"),
)


def shown(text, category, module):
    """Whether a warning that names a module is shown."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        leave_out_known_warnings()
        warnings.warn_explicit(text, category, f"{module}.py", 1, module=module)
    return bool(found)


@pytest.mark.parametrize("said", SAID, ids=lambda said: said[0][:20])
def test_what_libraries_say_of_themselves(said, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])
    text, category, module = said
    assert not shown(text, category, module)
    assert shown(text, category, "__main__")
    assert shown(text, category, "lesa_d2.layers.lesa")
    assert shown(text, category, "detectron2_of_mine.model")
    assert shown("another message", category, module)
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    assert shown(text, category, module)


@pytest.mark.parametrize("name", LOGGED)
def test_what_libraries_log(name, monkeypatch, caplog):
    monkeypatch.setattr(sys, "warnoptions", [])
    leave_out_known_warnings()
    logger = logging.getLogger(name)
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    logger.warning("%s, and so on", LOGGED[name])
    logger.warning("something else")
    assert {*caplog.messages} == {"something else"}


@pytest.mark.parametrize("script", ["quickstart", "lesa_in_60_seconds", "benchmark"])
def test_scripts_are_quiet(script, monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    done = train_net("--help", script=ROOT / f"projects/LESA/{script}.py")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_training_is_quiet(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    (tmp_path / "mine.py").write_text(CONFIG)
    done = train_net("--config-file", tmp_path / "mine.py", *TINY, f"train.output_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^.*Warning: .*|^W\d{4} .*", done.stderr, re.MULTILINE)
    assert ["of the user's config" in said[0], "says a config" in said[1]] == [True, True]
    assert len(said) == 2, said
    assert "PyTorch built with" not in done.stdout + done.stderr  # the report of the environment
    assert "PyTorch built with" in (tmp_path / "run/log.txt").read_text()
    assert "learning rate" in done.stdout  # that of the start
