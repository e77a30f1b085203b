"""What the comparisons with PyTorch share: run them with `make parity`."""

import os
from pathlib import Path

import pytest

from tests.helpers.compiling import QUICK

import dev.torchvision_operators  # isort: skip  # noqa: F401

# What is proved is what is compiled for users.
os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace(QUICK, "").strip()
COLUMNS = ("family", "direction", "45x70 px", "131x97 px", "224x224 px", "gradients")
ROWS = pytest.StashKey[dict]()


@pytest.fixture(scope="session")
def record(request):
    """record(family, direction, column, error): one cell of the table that ends the output."""
    rows = request.config.stash.setdefault(ROWS, {})

    def put(family: str, direction: str, column: str, error: float) -> None:
        assert column in COLUMNS
        rows.setdefault((family, direction), {})[column] = f"{error:.1e}"

    return put


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, {})
    if rows:
        terminalreporter.section("largest error, relative to the largest value")
        lines = [COLUMNS, ["---"] * len(COLUMNS)]
        for (family, direction), cells in rows.items():
            lines.append([family, direction, *(cells.get(name, "") for name in COLUMNS[2:])])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        terminalreporter.write_line(table)
        if path := config.getoption("--table"):
            Path(path).write_text(table + "\n")


def pytest_addoption(parser):
    parser.addoption("--table", help="a file to write the parity table to, as Markdown")
