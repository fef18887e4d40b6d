"""How a run ends."""

import argparse

from lesa_d2.engine import separate_overrides
from lesa_d2.errors import exit_status


def test_interrupting_is_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert exit_status(interrupted) == 130
    assert capsys.readouterr().err.strip().startswith("Interrupted. A training run continues")


def test_overrides_among_files():
    args, files = argparse.Namespace(opts=[]), ["a.png", "train.seed=1", "key=*.png", "x/y.z=1.jpg"]
    separate_overrides(args, files)
    assert (args.opts, files) == (["train.seed=1"], ["a.png", "key=*.png", "x/y.z=1.jpg"])
