"""Undisturbed runs to compare with, and the table of the faults that were tried."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import harness

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
TRIED: pytest.StashKey[Counter[tuple[str, str]]] = pytest.StashKey()


@pytest.fixture(scope="session")
def server() -> Iterator[harness.Server]:
    """Starts commands in processes of their own."""
    made = harness.Server()
    yield made
    made.close()


@pytest.fixture(scope="session")
def whole(server: harness.Server, tmp_path_factory: pytest.TempPathFactory) -> harness.Whole:
    """`whole(command)`: (folder, products, changes of files) of an undisturbed run, made once."""
    made: dict[str, tuple[Path, dict[str, str], int]] = {}

    def of(name: str) -> tuple[Path, dict[str, str], int]:
        if name not in made:
            folder = tmp_path_factory.mktemp("whole") / "work"
            ended = server.run(name, folder)
            assert ended.code == 0, ended.said
            assert harness.leftovers(folder) == []
            made[name] = folder, harness.products(folder), ended.changes
        return made[name]

    return of


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`tried(command, fault)` counts a fault that was survived."""
    counts = request.config.stash.setdefault(TRIED, Counter())

    def count(command: str, fault: str) -> None:
        counts[command, fault] += 1

    return count


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table into the file that $EVALTK_FAULTS names, where every test has passed.

    What it has of other faults stays, for the whole can be run in parts.
    """
    target, counts = os.environ.get("EVALTK_FAULTS"), session.config.stash.get(TRIED, None)
    if not target or not counts or session.testsfailed:
        return
    text = Path(target).read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    told, _, after = rest.partition(END)
    counts = _read(told) | counts
    kinds = list(dict.fromkeys(fault for _, fault in counts))
    rows = [["command", *kinds], ["---"] * (len(kinds) + 1)]
    for command in dict.fromkeys(command for command, _ in counts):
        rows.append([command, *(str(counts.get((command, kind), "")) for kind in kinds)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    Path(target).write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def _read(table: str) -> dict[tuple[str, str], int]:
    """The counts that a table holds."""
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n") if line] or [[]]
    return {
        (row[0], kind): int(cell)
        for row in rows
        for kind, cell in zip(head[1:], row[1:], strict=False)
        if cell.isdigit()
    }
