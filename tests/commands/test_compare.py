"""Options that the comparisons share."""

from pathlib import Path

import pytest

from lesa_d2.tools.analysis.comparison_script import (
    RUN_KEYS,
    check_config_files,
    comparison_parser,
    parse_comparison,
)


@pytest.fixture
def parser():
    parser = comparison_parser("Things.", output="output/things")
    parser.add_argument("--things", nargs="+", dest="compared", default=["a", "b"])
    return parser


@pytest.mark.parametrize("arguments", [["--things", "c", "k=1", "--jobs", "4"], ["k=1", "--things", "c"]])
def test_overrides_stand_anywhere(parser, arguments):
    args = parse_comparison(parser, arguments=arguments)
    assert (args.compared, args.opts) == (["c"], ["k=1"])


def test_defaults(parser):
    args = parse_comparison(parser, arguments=[])
    assert (args.compared, args.opts, args.output) == (["a", "b"], [], Path("output/things"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.seed=1", "own=2"], "own, train.seed: the comparison sets this itself (--things, --seeds)"),
        (["+train.output_dir=x"], "train.output_dir: the comparison sets this itself (--output)"),
        (["--jobs", "0"], "--seeds and --jobs must be at least 1"),
    ],
)
def test_options_that_make_no_sense(parser, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_comparison(parser, {"own": "--things", **RUN_KEYS}, arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_config_file_that_does_not_exist(parser, tmp_path, capsys):
    (tmp_path / "here.py").touch()
    check_config_files(parser, [tmp_path / "here.py"])
    with pytest.raises(SystemExit):
        check_config_files(parser, [tmp_path / "here.py", "gone.py"])
    assert "config file gone.py does not exist" in capsys.readouterr().err
