"""``lesa compare operators``, with the smallest runs there are."""

import pytest
from runs import TINY_CLASSIFIER, lesa
from warm_python import program

DATA = [
    f"dataloader.{split}.dataset.{key}"
    for split in ("train", "test")
    for key in ("num_images=150", "image_size=32")
]


@pytest.fixture(autouse=True)
def _warm_python(monkeypatch):
    """Each run is a process of its own."""
    monkeypatch.setattr("sys.executable", program())


def test_runs_table_and_curves_and_nothing_twice(datasets, tmp_path):
    output = tmp_path / "out"
    options = ["--output", output, "--seeds", 2, "--operators", "conv", "lesa", "--"]
    options += [*TINY_CLASSIFIER, *DATA, "train.max_iter=2", "train.eval_period=1"]
    first = lesa("compare", "operators", *options)
    assert first.returncode == 0, first.stderr[-3000:]
    table = (output / "table.md").read_text()
    assert table.strip() in first.stdout
    assert "`conv`" in table
    assert "`lesa`" in table
    assert (output / "curves.png").is_file()
    stamps = {file: file.stat().st_mtime_ns for file in output.glob("*/*/model_final.pth")}
    assert len(stamps) == 4
    again = lesa("compare", "operators", *options)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {file: file.stat().st_mtime_ns for file in output.glob("*/*/model_final.pth")} == stamps
    assert (output / "table.md").read_text() == table
    other = lesa("compare", "operators", *options, "optimizer.lr=1e-4")
    assert other.returncode == 2
    assert "choose another --output" in other.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--operators", "conv", "model.backbone.operator=lesa"], "the comparison sets this itself"),
        (["--operators", "spam"], "--operators takes some of conv, "),
        (["--seeds", "0"], "--seeds and --jobs must be at least 1"),
        (
            ["--operators", "conv", "train.seed=1", "+train.output_dir=x"],
            "train.seed, train.output_dir: the comparison",
        ),
        (["--config-file", "gone.py"], "'gone.py' does not exist"),
    ],
)
def test_options_that_make_no_sense(given, message, tmp_path):
    done = lesa("compare", "operators", "--output", tmp_path / "out", *given)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_is_reported(datasets, tmp_path):
    done = lesa(
        "compare",
        "operators",
        "--output",
        tmp_path,
        "--seeds",
        1,
        "--operators",
        "conv",
        "--",
        "train.max_iter=0",
    )
    assert done.returncode == 2
    assert "conv, seed 0 failed" in done.stderr
    assert "train.max_iter must be a whole number of at least 1, got 0" in done.stderr
    assert "Traceback" not in done.stderr
