"""Claims: one program at a time, taken over from the dead and the silent, whatever the clocks say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from evaltk import claims
from evaltk.claims import Claims

HOLD = """
import sys, time
from pathlib import Path
from evaltk.claims import Claims
with Claims() as mine:
    print(mine.take(Path(sys.argv[1])) is not None, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`elsewhere(name)`: from now on this program claims as another machine would."""
    return lambda name: monkeypatch.setattr(claims, "_host", lambda: name)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_one_holds_it_until_it_is_released(tmp_path: Path, elsewhere: Any) -> None:
    work = tmp_path / "runs" / "knn.json"
    with Claims() as one, Claims() as other:
        elsewhere("a")
        claim = one.take(work)
        assert claim is not None and not claim.lost()
        elsewhere("b")
        assert other.take(work) is None and other.holder(work) == f"process {os.getpid()} on {os.uname().nodename}"
        one.release(claim)
        again = other.take(work)
        assert again is not None and again.number == 0
    assert left_in(tmp_path) == ["runs"]  # what is held is released at the end


def test_of_many_threads_one_gets_it(tmp_path: Path, elsewhere: Any) -> None:
    elsewhere("here")
    got: list[str] = []
    barrier = threading.Barrier(8)

    def compete(name: int) -> None:
        mine = Claims()
        for turn in range(20):
            barrier.wait()
            if mine.take(tmp_path / f"work-{turn}") is not None:
                got.append(f"{turn}")
            barrier.wait()
            if name == 0:  # the next turn begins with a claim that nobody keeps alive
                (dead := tmp_path / f"work-{turn + 1}.claim-0").mkdir()
                (dead / "owner").write_text(json.dumps({"host": "here", "process": 2**22 + 1, "token": "x"}))
            barrier.wait()
        mine.__exit__(None, None, None)

    threads = [threading.Thread(target=compete, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=int) == [str(turn) for turn in range(20)]


def test_what_a_killed_program_held_is_taken_over_at_once(tmp_path: Path) -> None:
    work = tmp_path / "knn.json"
    command = [sys.executable, "-c", HOLD, str(work)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder,
        Claims() as mine,
    ):
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        assert mine.take(work) is None
        holder.kill()
        holder.wait()
        claim = mine.take(work)
        assert claim is not None and claim.number == 1
    assert left_in(tmp_path) == []


KILLED = {
    "made": ("Path.rename = die", ""),  # which puts the claim in its place
    "held": ("", "die()"),
    "removed": ("", "shutil.rmtree = die"),  # after the rename that takes it away
}
DIES = """
import os, shutil, sys
from pathlib import Path
from evaltk.claims import Claims
def die(*given, **more):
    os.kill(os.getpid(), 9)
with Claims() as mine:
    BEFORE
    claim = mine.take(Path(sys.argv[1]))
    AFTER
    mine.release(claim)
"""


@pytest.mark.parametrize("when", KILLED)
def test_what_the_dead_have_left_is_removed_without_their_work(tmp_path: Path, when: str) -> None:
    """A claim on an extraction stands for no file; the kill may fall while its folder is made or removed."""
    script = DIES.replace("BEFORE", KILLED[when][0]).replace("AFTER", KILLED[when][1])
    command = [sys.executable, "-c", script, str(tmp_path / "work")]
    assert subprocess.run(command, check=False).returncode == -9 and left_in(tmp_path)
    with Claims() as mine:
        mine.tidy(tmp_path)
        assert bool(left_in(tmp_path)) == (when == "held")
        mine.tidy(tmp_path, undone=True)
    assert left_in(tmp_path) == []


def test_of_another_machine_only_silence_tells(tmp_path: Path, elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    work, now = tmp_path / "knn.json", [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Claims() as other:
        elsewhere("a")
        theirs = Claims(beat=1e6)  # never beats by itself
        claim = theirs.take(work)
        assert claim is not None
        elsewhere("b")
        for beat in range(3):  # it lives: its counter moves between two looks
            (claim.folder / "pulse").write_text(str(beat))
            os.utime(claim.folder / "pulse", (1e9 * beat, 1e9 * beat))  # clocks may say what they like
            now[0] += 100
            assert other.take(work) is None
        now[0] += 119
        assert other.take(work) is None
        now[0] += 2
        taken = other.take(work)
        assert taken is not None and taken.number == 1
        assert claim.lost() and not taken.lost()
        theirs.release(claim)  # the one that was thought dead: what is another's stays
        assert not taken.lost() and theirs.take(work) is None
        theirs.__exit__(None, None, None)
    assert left_in(tmp_path) == []


def test_the_counter_moves(tmp_path: Path) -> None:
    with Claims(beat=0.01) as mine:
        claim = mine.take(tmp_path / "knn.json")
        assert claim is not None
        deadline = time.monotonic() + 20
        while (claim.folder / "pulse").read_text() in ("", "0") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert int((claim.folder / "pulse").read_text()) > 0
