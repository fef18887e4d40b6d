"""``lesa compare detectors``, with the smallest runs there are."""

import pytest
from runs import ROOT, TINY, lesa
from warm_python import program

CONFIGS = [ROOT / f"configs/quickstart_{name}.py" for name in ("htc", "lesa")]


@pytest.fixture(autouse=True)
def _warm_python(monkeypatch):
    """Each run is a process of its own."""
    monkeypatch.setattr("sys.executable", program())


def test_runs_table_and_plot_and_nothing_twice(datasets, tmp_path):
    output = tmp_path / "out"
    options = ["--output", output, "--seeds", 1, "--config-files", *CONFIGS, *TINY, "train.max_iter=2"]
    first = lesa("compare", "detectors", *options)
    assert first.returncode == 0, first.stderr[-3000:]
    table = (output / "table.md").read_text()
    assert table.strip() in first.stdout
    assert "box AP, mean" in table
    assert "mask AP, mean" in table
    assert sorted(line.split("`")[1] for line in table.splitlines()[2:]) == [
        "quickstart_htc",
        "quickstart_lesa",
    ]
    assert (output / "curves.png").is_file()
    stamps = {file: file.stat().st_mtime_ns for file in output.glob("quickstart_*/seed_0/model_final.pth")}
    assert len(stamps) == 2
    fewer = [item for item in options if item != CONFIGS[0]]
    again = lesa("compare", "detectors", *fewer)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    assert "htc" not in (output / "table.md").read_text()
    other = lesa("compare", "detectors", *fewer, "optimizer.lr=1e-4")
    assert other.returncode == 2
    assert "choose another --output" in other.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--config-files", CONFIGS[0], "other/quickstart_htc.py"], "takes files of different names"),
        (["--config-files", "train.max_iter=1"], "takes files of different names, one or more, got none"),
        (["--config-files", "gone.py"], "'gone.py' does not exist"),
    ],
)
def test_options_that_make_no_sense(given, message, tmp_path):
    done = lesa("compare", "detectors", "--output", tmp_path / "out", *given)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
