"""How a run ends."""

import argparse

from lesa_d2.engine import launch, separate_overrides


def test_interrupting_is_one_line(capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    assert launch(interrupted, argparse.Namespace(num_gpus=1, num_machines=1)) == 130
    assert capsys.readouterr().err.strip().startswith("Interrupted. A training run continues")


def test_overrides_among_files():
    args, files = argparse.Namespace(opts=[]), ["a.png", "train.seed=1", "key=*.png", "x/y.z=1.jpg"]
    separate_overrides(args, files)
    assert (args.opts, files) == (["train.seed=1"], ["a.png", "key=*.png", "x/y.z=1.jpg"])
