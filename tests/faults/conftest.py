"""What the tests of faults share: their size, the run that is disturbed, and the table of what happened.

``make faults`` and ``make endurance`` set LESA_FAULTS to the file whose table they bring up to date; without it, the
tests try a few cases of each fault.
"""

import os
from pathlib import Path

import pytest
from disturbed_runs import Disturbed
from tabulate import tabulate

TABLE = os.environ.get("LESA_FAULTS")
HEADERS = ("fault", "tries", "outcome", "figures")
BEGIN, END = "<!-- begin of the table -->\n", "<!-- end of the table -->\n"
ROWS = pytest.StashKey[list]()


@pytest.fixture
def tries():
    """Return how often a fault is tried: the first number in the tests, the second by ``make faults``."""
    return lambda few, many: many if TABLE else few


@pytest.fixture
def outcome(request):
    """Return a function that adds a row to the table."""
    return lambda *row: request.config.stash.setdefault(ROWS, []).append(row)


@pytest.fixture(scope="session")
def disturbed(tmp_path_factory):
    """The run that the tests disturb, and its result without disturbance."""
    return Disturbed(tmp_path_factory.mktemp("disturbed"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    row = getattr(getattr(item, "obj", None), "row", None)  # of random mistakes
    if row and report.when == "call" and report.passed:
        item.config.stash.setdefault(ROWS, []).append(row)
    return report


def pytest_sessionfinish(session, exitstatus):
    rows = session.config.stash.get(ROWS, [])
    if TABLE and rows:
        file = Path(TABLE)
        before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
        old, _, after = rest.partition(END)
        lines = (tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in old.splitlines()[2:])
        merged = {row[0]: row for row in (*lines, *rows)}
        table = tabulate(sorted(merged.values()), headers=HEADERS, tablefmt="github", disable_numparse=True)
        file.write_text(f"{before}{BEGIN}{table}\n{END}{after}", encoding="utf-8")
