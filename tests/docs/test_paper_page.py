"""The page on the paper has the numbers that the zoo's table has, and every config of the paper in its tables."""

import re

from sandbox import ROOT

from lesa_d2 import model_zoo
from lesa_d2.weights import RESULTS

PAGE = (ROOT / "projects/LESA/README.md").read_text(encoding="utf-8")


def rows(table):
    """Cells of the rows of a table that name a config, by that name."""
    text = re.split(r"^###? ", PAGE.split(f"### Table {table}:")[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| `" in line
    ]
    return {next(cell.strip("`") for cell in line if cell.startswith("`")): line for line in lines}


def test_tables_of_detectors():
    coco, test_dev = rows(3), rows(4)
    assert len(coco) == 14
    assert set(coco) == {name for name, result in RESULTS.items() if result.box_ap}
    for name, cells in coco.items():
        assert (float(cells[4]), float(cells[10])) == (RESULTS[name].box_ap, RESULTS[name].mask_ap), name
    assert set(test_dev) == {name for name in coco if "lesa" in name}
    assert {len(cells) for cells in (*coco.values(), *test_dev.values())} == {17}


def test_tables_of_classifiers():
    imagenet, merging = rows(2), rows(6)
    assert {*imagenet, *merging} == {name for name, result in RESULTS.items() if result.top1}
    for name, cells in imagenet.items():
        assert abs(float(cells[4]) - RESULTS[name].top1) < 0.06, name  # one decimal
    for name, cells in merging.items():
        assert float(cells[3]) == RESULTS[name].top1, name


def test_named_configs_exist_and_nothing_is_left_to_the_paper():
    assert {*rows(2), *rows(3), *rows(4), *rows(6)} <= set(model_zoo.available())
    assert "see the paper" not in PAGE
