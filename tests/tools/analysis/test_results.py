import math

from lesa_d2.tools.analysis import RunResult, write_table


def result(name, **changes):
    values = {"box_ap": 40.04, "box_ap50": 60, "mask_ap": 35, "mask_ap50": 55.5, "seconds": 90}
    return RunResult(name=name, parameters=1234567, iterations=10, **{**values, **changes})


def test_table_of_all_runs(tmp_path):
    for run in (result("lesa"), result("conv", box_ap=1.0)):
        (tmp_path / run.name).mkdir()
        run.save(tmp_path / run.name)
    lines = write_table(tmp_path).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["conv", "lesa"]
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert cells == ["lesa", "1,234,567", "10", "1", "40.0", "60.0", "35.0", "55.5", "1.5 min"]
    assert (tmp_path / "table.md").read_text().splitlines() == lines


def test_seeds_share_a_row(tmp_path):
    for folder, run in (
        ("lesa", result("lesa")),
        ("seed_1/lesa", result("lesa", box_ap=42.04, seconds=150)),
        ("seed_1/conv", result("conv")),
    ):
        (tmp_path / folder).mkdir(parents=True)
        run.save(tmp_path / folder)
    conv, lesa = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in write_table(tmp_path).splitlines()[2:]
    )
    assert conv[3:5] == ["1", "40.0"]
    assert lesa[3:] == ["2", "41.0 ± 1.4", "60.0 ± 0.0", "35.0 ± 0.0", "55.5 ± 0.0", "2.0 ± 0.7 min"]


def test_a_run_that_found_nothing(tmp_path):
    for folder in ("lesa", "seed_1/lesa"):
        (tmp_path / folder).mkdir(parents=True)
        result("lesa", box_ap=math.nan).save(tmp_path / folder)
    assert "| nan ± nan |" in " ".join(write_table(tmp_path).split())
