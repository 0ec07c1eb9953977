"""Commands that are killed, ended, starved of disk, fed damaged files or started twice: nothing is lost afterwards.

After each fault the same command is run again. It must give what an undisturbed run gives, to the bit, and leave no
temporary file and no process. The moments are the changes that a command makes to its files, so that a kill falls
between any two renames; they are drawn from seeds. `make faults` tries many more than the default tests.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import harness
import pytest
from harness import COMMANDS, ENDED, TRAINING_ENDED, WITH_WORKERS, Server, Whole

MANY = pytest.mark.faults
RUNS = ("run", "run with decoding processes", "linear", "fine-tuning")
COMPUTING = [name for name in COMMANDS if name not in ("report", "fetch")]  # make again what was damaged
Tried = Callable[[str, str], None]


def moments(number: int, many: int) -> list:
    """Seeds 0, 1, ...: the first `number` of them in the default tests."""
    return [pytest.param(seed, marks=[] if seed < number else MANY) for seed in range(many)]


def named(*default: str, of: Iterable[str] = COMMANDS) -> list:
    """Every command, those named here in the default tests."""
    return [pytest.param(name, marks=[] if name in default else MANY) for name in of]


def moment(seed: int, changes: int, *what: str) -> int:
    """A change of files between the first and the last."""
    return random.Random(f"{seed} {what}").randint(1, changes)


def again(server: Server, name: str, folder: Path, wanted: dict[str, str]) -> harness.Ended:
    """Run a command once more, and compare what is there then with the undisturbed run."""
    ended = server.run(name, folder)
    assert ended.code == 0, ended.said
    assert harness.products(folder) == wanted
    assert harness.leftovers(folder) == []
    return ended


@pytest.mark.parametrize("seed", moments(1, 12))
@pytest.mark.parametrize("name", named("run"))
def test_killed(name: str, seed: int, server: Server, whole: Whole, tried: Tried, tmp_path: Path) -> None:
    _, wanted, changes = whole(name)
    for time in range(2):  # the second kill meets what the first has left
        at = moment(seed, changes, name, str(time))
        assert server.run(name, tmp_path / "work", fault="SIGKILL", at=at).code in (0, ENDED["SIGKILL"])
    again(server, name, tmp_path / "work", wanted)
    tried(name, "SIGKILL, twice")


@pytest.mark.parametrize("signal", ["SIGTERM", pytest.param("SIGINT", marks=MANY)])
@pytest.mark.parametrize("seed", moments(1, 4))
@pytest.mark.parametrize("name", named("run with decoding processes"))
def test_ended_by_a_signal(
    name: str, seed: int, signal: str, server: Server, whole: Whole, tried: Tried, tmp_path: Path
) -> None:
    _, wanted, changes = whole(name)
    ended = server.run(name, tmp_path / "work", fault=signal, at=moment(seed, changes, name, signal))
    codes = {ENDED[signal], TRAINING_ENDED[signal]} if name == "pretrain" else {ENDED[signal]}
    assert ended.code in codes | {0}, ended.said  # 0: training was over but for its last line
    harness.one_line(ended)
    again(server, name, tmp_path / "work", wanted)
    tried(name, signal)


@pytest.mark.parametrize("seed", moments(0, 8))
@pytest.mark.parametrize("name", named())
def test_a_full_disk(name: str, seed: int, server: Server, whole: Whole, tried: Tried, tmp_path: Path) -> None:
    _, wanted, changes = whole(name)
    ended = server.run(name, tmp_path / "work", fault="full disk", at=moment(seed, changes, name, "full"))
    assert ended.code in (0, 2), ended.said
    harness.one_line(ended)
    again(server, name, tmp_path / "work", wanted)
    tried(name, "full disk")


@pytest.mark.parametrize("limit", [300, 700, 1500, 6000])
@pytest.mark.parametrize("name", named(of=[*COMMANDS, *WITH_WORKERS]))
def test_files_that_end_in_the_middle(
    name: str, limit: int, server: Server, whole: Whole, tried: Tried, tmp_path: Path
) -> None:
    """A limit on the size of files stops a write half way, as a full disk does."""
    _, wanted, _ = whole(name)
    ended = server.run(name, tmp_path / "work", fault="file size limit", at=limit)
    assert ended.code in (0, 2), ended.said
    harness.one_line(ended)
    again(server, name, tmp_path / "work", wanted)
    tried(name, "write that ends half way")


@pytest.mark.parametrize("how", ["flipped", *(pytest.param(how, marks=MANY) for how in ("cut", "gone", "empty"))])
@pytest.mark.parametrize("stage", ["finished", pytest.param("killed", marks=MANY)])
@pytest.mark.parametrize("name", named("run", of=COMPUTING))
def test_a_damaged_file(
    name: str, stage: str, how: str, request: pytest.FixtureRequest, server: Server, whole: Whole, tried: Tried,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Each file in turn, of a finished and of a killed run; in the default tests, one of them."""
    many = "faults" in str(request.config.getoption("-m")).replace("not faults", "")
    source, wanted, changes = whole(name)
    if stage == "killed":
        source = tmp_path / "source"
        server.run(name, source, fault="SIGKILL", at=round(0.7 * changes))
    names = sorted(
        str(p.relative_to(source)) for p in source.rglob("*") if p.is_file() and "tensorboard" not in p.parts
    )
    names = [n for n in names if not n.endswith((".part", ".lock", "recipe.json"))]
    rng = random.Random(f"{name} {stage} {how}")
    for chosen in names if many else rng.sample(names, min(1, len(names))):
        folder = harness.copy(source, tmp_path / "work")
        harness.spoil(folder / chosen, how, rng)
        more = ("--again",) if name in RUNS else ()
        ended = server.run(name, folder, *more)
        assert ended.code == 0, f"{chosen}: {ended.said}"
        found = {n: d for n, d in harness.products(folder).items() if n in wanted}
        lost = {n for n in wanted if found.get(n) != wanted[n]}
        # An epoch before the last one that a training kept is not trained again: it is the user's to see.
        kept = name == "pretrain" or (how == "gone" and chosen.endswith("checksums.json"))  # as of an earlier version
        # Features that only the training reads are looked at once it is made anew.
        kept |= name == "linear" and chosen.startswith("cache/features/")
        assert not lost or (kept and lost == {chosen}), f"{chosen}: {lost}"
        assert harness.leftovers(folder) == [], chosen
        tried(name, f"file {how}")


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=MANY)])
@pytest.mark.parametrize("seed", moments(1, 4))
@pytest.mark.parametrize("name", named("run"))
def test_several_at_once(
    name: str, seed: int, number: int, server: Server, whole: Whole, tried: Tried, tmp_path: Path
) -> None:
    _, wanted, _ = whole(name)
    all_ended = [server.wait(p) for p in [server.start(name, tmp_path / "work") for _ in range(number)]]
    codes = sorted(ended.code for ended in all_ended)
    assert codes[0] == 0 and set(codes) <= ({0, 2} if name == "pretrain" else {0}), [e.said for e in all_ended]
    assert all("Traceback" not in ended.said for ended in all_ended)
    refused = [ended.said.splitlines() for ended in all_ended if ended.code == 2]
    assert all(sum("wanted" in line for line in lines) == 1 and "under way" in lines[-1] for lines in refused), refused
    assert harness.products(tmp_path / "work") == wanted
    assert harness.leftovers(tmp_path / "work") == []
    again(server, name, tmp_path / "work", wanted)
    tried(name, "two or four at once")


@pytest.mark.parametrize("kib", [8, 60, 400])
@pytest.mark.parametrize("name", named())
def test_a_small_disk(name: str, kib: int, server: Server, whole: Whole, tried: Tried, tmp_path: Path) -> None:
    """A disk of its own with so much room, and then with more."""
    _, wanted, _ = whole(name)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a disk")
    try:
        server.prepare(name, disk / "work")
        full = shutil.disk_usage(disk).used // 1024 + kib
        subprocess.run(["mount", "-o", f"remount,size={full}k", str(disk)], check=True)
        ended = server.run(name, disk / "work")
        assert ended.code in (0, 2), ended.said
        harness.one_line(ended)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again(server, name, disk / "work", wanted)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    tried(name, "small disk")


@pytest.mark.parametrize("stage", ["begun", "empty"])
@pytest.mark.parametrize("name", named("fetch"))
def test_a_folder_without_the_right_to_write(
    name: str, stage: str, server: Server, whole: Whole, tried: Tried, tmp_path: Path
) -> None:
    _, wanted, changes = whole(name)
    folder = tmp_path / "work"
    server.prepare(name, folder)
    if stage == "begun":
        server.run(name, folder, fault="SIGKILL", at=round(0.6 * changes))
    folders = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    for one in folders:
        one.chmod(0o555)
    ended = server.run(name, folder, fault="read-only")
    for one in folders:
        one.chmod(0o755)
    assert ended.code == 2, ended.said
    harness.one_line(ended)
    again(server, name, folder, wanted)
    tried(name, "read-only folder")


@pytest.mark.parametrize("seed", moments(0, 6))
@pytest.mark.parametrize("name", named())
def test_a_file_is_deleted_meanwhile(
    name: str, seed: int, server: Server, whole: Whole, tried: Tried, tmp_path: Path
) -> None:
    """One of the files that the command has made so far, or reads."""
    _, wanted, changes = whole(name)
    folder = tmp_path / "work"
    ended = server.run(name, folder, fault="file deleted", at=moment(seed, changes, name, "deleted"))
    assert ended.code in (0, 2), ended.said
    harness.one_line(ended)
    if name == "report":
        shutil.rmtree(folder / "runs")  # what was deleted may be a result, which is made again by another command
    ended = server.run(name, folder, *(("--again",) if name in RUNS else ()))
    assert ended.code == 0, ended.said
    found = harness.products(folder)
    lost = {n for n in wanted if found.get(n) != wanted[n]}
    # A kept epoch is not trained again, and a cache entry without its list of checksums is one of an earlier version.
    assert len(lost) <= 1 and (name == "pretrain" or all(n.endswith("checksums.json") for n in lost)), lost
    assert harness.leftovers(folder) == []
    tried(name, "file deleted meanwhile")


@pytest.mark.parametrize("seed", moments(0, 6))
@pytest.mark.parametrize("name", ["run with decoding processes", *WITH_WORKERS])
def test_a_decoding_process_is_killed(
    name: str, seed: int, server: Server, whole: Whole, tried: Tried, tmp_path: Path
) -> None:
    """As by the system when memory runs out."""
    _, wanted, changes = whole(name)
    at = moment(seed, changes, name, "killed")
    ended = server.run(name, tmp_path / "work", fault="process killed", at=at)
    assert ended.code in (0, 2), ended.said
    harness.one_line(ended)
    again(server, name, tmp_path / "work", wanted)
    tried(name, "decoding process killed")
