"""Temporary files are removed once their process has died, not before; a folder's lock goes with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evaltk import files, owned, processes
from evaltk.errors import StorageError


def dies(work: Callable[[], object]) -> None:
    """Run `work` in a process that is killed afterwards."""
    pid = os.fork()
    if not pid:
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def half_written(path: Path) -> Callable[[], object]:
    def fill(stream) -> None:  # type: ignore[no-untyped-def]
        stream.write(b"half")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda: files.write(path, fill)


def test_the_next_write_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    dies(half_written(tmp_path / "a.json"))
    (left,) = tmp_path.iterdir()
    assert owned.LEFT.fullmatch(left.name)
    files.write_text(tmp_path / "b.json", "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    def fill(stream) -> None:  # type: ignore[no-untyped-def]
        files.write_text(tmp_path / "other", "x")
        stream.write(b"whole")

    files.write(tmp_path / "slow", fill)
    assert (tmp_path / "slow").read_bytes() == b"whole"
    building = owned.temporary(tmp_path / "folder")
    building.mkdir()
    descriptor = os.open(building, os.O_RDONLY)
    assert owned.claim(descriptor)
    owned.sweep(tmp_path)
    assert building.exists()
    os.close(descriptor)
    owned.sweep(tmp_path)
    assert not building.exists()


def test_of_other_machines_and_versions_only_what_is_old_goes(tmp_path: Path) -> None:
    names = [".a.json.ffffff-0123456789abcdef.part", ".a.json.0123456789abcdef.part", f".{'0' * 64}.{'1' * 32}"]
    mine = [".config", "a.part", ".a.part", ".x.0123456789abcdeg.part"]
    for name in names + mine:
        (tmp_path / name).write_text("")
    owned.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names + mine)
    for name in names + mine:
        os.utime(tmp_path / name, (time.time() - 2 * owned.OLD,) * 2)
    owned.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(mine)


def test_a_lock_is_for_one_process_and_goes_with_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from evaltk import owned\n"
        "with owned.lock(Path(sys.argv[1]), 'a training', 'wait'):\n    print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    said = rf"without a training under way; got one by process {process.pid} on "
    with pytest.raises(StorageError, match=said), owned.lock(tmp_path, "a training", "wait"):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / owned.LOCK).exists()  # stale
    with owned.lock(tmp_path, "a training", "wait"):
        assert f"process {os.getpid()} " in (tmp_path / owned.LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    tries = []

    def fill(stream) -> None:  # type: ignore[no-untyped-def]
        tries.append(1)
        stream.write(b"x")
        if len(tries) == 1:
            for path in (tmp_path / "gone").iterdir():
                path.unlink()
            (tmp_path / "gone").rmdir()

    files.write(tmp_path / "gone" / "x", fill)
    assert (tmp_path / "gone" / "x").read_bytes() == b"x"


def test_a_worker_ends_with_its_parent() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        worker = os.fork()
        if not worker:
            processes.LOOK = 0.05
            processes.start_worker()
            os.write(write, f"{os.getpid()}\n".encode())
            time.sleep(60)
        time.sleep(60)
    worker = int(os.read(read, 20))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(write)
    assert os.read(read, 1) == b""  # the worker's end of the pipe closes as it ends
    os.close(read)


def test_signals_become_exceptions_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(processes.Ended) as ended, processes.ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert (ended.value.name, ended.value.exit_code) == ("SIGTERM", 143)
    assert signal.getsignal(signal.SIGTERM) is before
