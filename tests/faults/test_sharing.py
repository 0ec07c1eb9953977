"""Several `evaltk run` on one folder of results, some of them killed: every cell is run once, to the same bits."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evaltk import results

SUITE = """
checkpoints = ["pixels:8", "pixels:7", "pixels:6", "pixels:5", "pixels:4"]
data = ["digits", "b:digits"]
limit = 60
protocols = [{name = "knn", k = [1, 5], choose = 0}, {name = "knn", k = [3], choose = 0}]
"""
# A run that is killed at its nth result: before its file is written, or right after.
SCRIPT = """
import os, signal, sys
from evaltk import cli, results
at, when = int(sys.argv[1]), sys.argv[2]
real, count = results.write, [0]
def write(*given):
    count[0] += 1
    if count[0] == at and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(*given)
    if count[0] == at:
        os.kill(os.getpid(), signal.SIGKILL)
results.write = write
sys.exit(cli.main(sys.argv[3:]))
"""
WROTE = re.compile(r"evaltk: wrote (\S+\.json):")


def products(folder: Path) -> dict[str, Any]:
    """All that results say but when and where they were made, and their predictions' bytes."""
    found = {}
    for path, _ in results.find(folder / "runs"):
        told = json.loads(path.read_text())
        crc = told.pop("crc32", None)
        assert crc is not None and told.pop("made")
        found[path.name] = told, results.predictions_path(path).read_bytes()
    return found


@pytest.fixture
def started(forks: Any, tmp_path: Path) -> Any:
    def start(folder: Path, without: str = "", at: int = 0, when: str = "before") -> int:
        text = SUITE + (f'matrix.except = [{{checkpoint = "{without}"}}]\n' if without else "")
        (suite := tmp_path / f"suite-{without[-1:]}.toml").write_text(text)
        folders = ["--out", folder / "runs", "--cache", folder / "cache"]
        pid: int = forks.start(SCRIPT, [at, when, "run", suite, *folders])
        return pid

    return start


@pytest.mark.faults
@pytest.mark.parametrize("number", [2, 4])
def test_no_cell_is_run_twice_and_none_is_lost(number: int, started: Any, forks: Any, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert forks.ended(started(alone))[0] == 0
    wanted = products(alone)
    assert len(wanted) == 20
    killed = [started(shared, "pixels:4", 3, "before"), started(shared, "pixels:8", 4, "after")]
    more = [started(shared, f"pixels:{5 + n}") for n in range(number - 2)]
    ended = [forks.ended(pid) for pid in killed]
    ended += [forks.ended(pid) for pid in [*more, started(shared, "pixels:4"), started(shared)]]
    assert [code for code, _, _ in ended] == [-9, -9, *[0] * number], ended
    counts = Counter(path for _, _, err in ended for path in WROTE.findall(err))
    assert set(counts.values()) == {1} and len(counts) >= 20 - 2  # what a killed run wrote last it could not tell of
    assert products(shared) == wanted
    assert not [path for path in shared.rglob("*") if ".claim-" in path.name or path.name.endswith(".part")]
