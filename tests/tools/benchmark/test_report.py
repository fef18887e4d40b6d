import json

import pytest

from lesa_d2.tools.benchmark import Measurement, Report, write_section
from lesa_d2.tools.benchmark.report import Growth, environment, fitted_exponent, save_json


def measurement(variant, seconds, megabytes, mode="forward"):
    return Measurement(variant, mode, [seconds], megabytes and megabytes * 2**20)


def test_ratios_by_hand():
    found = [measurement("plain", 2.0, 100), measurement("fast", 0.25, 5), measurement("limit", 0.2, None)]
    rows = Report("title", found, "plain", "limit").table().splitlines()
    assert rows[2].split() == [
        "|",
        "forward",
        "|",
        "plain",
        "|",
        "1.00×",
        "|",
        "10.00",
        "|",
        "2000.0",
        "|",
        "1.000",
        "|",
        "100",
        "|",
    ]
    assert rows[3].split() == [
        "|",
        "forward",
        "|",
        "fast",
        "|",
        "8.00×",
        "|",
        "1.25",
        "|",
        "250.0",
        "|",
        "0.050",
        "|",
        "5",
        "|",
    ]
    assert rows[4].split() == [
        "|",
        "forward",
        "|",
        "limit",
        "|",
        "10.00×",
        "|",
        "1.00",
        "|",
        "200.0",
        "|",
        "not",
        "measured",
        "|",
        "not",
        "measured",
        "|",
    ]


@pytest.mark.parametrize("exponent", [1.0, 3.7])
def test_fitted_exponent(exponent):
    sides = (32, 64, 96)
    assert fitted_exponent(sides, [5 * s**exponent for s in sides]) == pytest.approx(exponent)


def test_growth_says_its_exponents():
    sides = (1, 2, 4)
    found = [
        measurement(str(s), power * s**power, s**2, mode)
        for mode, power in (("forward", 4), ("training", 3))
        for s in sides
    ]
    text = Growth("growth", found, "1", sides=sides).text()
    assert "forward: time ~ s^4.00, memory ~ s^2.00" in text
    assert "training: time ~ s^3.00, memory ~ s^2.00" in text


def test_sections_replace_themselves_and_keep_others(tmp_path):
    file = tmp_path / "B.md"
    write_section(file, "a", "AAA")
    write_section(file, "b", "BBB")
    write_section(file, "a", "CCC")
    text = file.read_text()
    assert text.startswith("# What LESA costs here")
    assert "AAA" not in text
    assert text.index("CCC") < text.index("BBB")
    assert text.count("<!-- begin") == 2
    assert text.count("## ") == 0
    before = text
    write_section(file, "b", "BBB")
    assert file.read_text() == before


def test_json_holds_every_run(tmp_path):
    report = Report("title", [Measurement("fast", "forward", [1.0, 3.0, 2.0], 7)], "fast")
    save_json(tmp_path / "f.json", "command", environment("cpu", "float32"), [report])
    data = json.loads((tmp_path / "f.json").read_text())
    assert data["reports"][0]["measurements"][0]["runs"] == [1.0, 3.0, 2.0]
    assert data["reports"][0]["measurements"][0]["seconds"] == 2.0
    assert data["environment"]["torch"]
