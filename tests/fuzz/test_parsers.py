"""No traceback from any file: each parser gives a value or one of our errors for every mutant (`run.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import parsers
import pytest

RUN = Path(__file__).with_name("run.py")


def run(*words: str, timeout: float) -> list[dict]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, str(RUN), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode in (0, 1) and told, f"{done.returncode}, last input {done.stderr[-300:]}"
    return told


def test_two_hundred_mutants_of_every_parser() -> None:
    told = run("--count", "200", timeout=300)
    assert not [one for one in told if one["faults"]], [one["faults"] for one in told if one["faults"]]
    assert {one["parser"] for one in told} >= parsers.PARSERS.keys() - {"parquet", "arrow"}
    # A parser that refuses all mutants, or none, may not be looking at them.
    read = {one["parser"]: one.get("value", 0) for one in told}
    assert all(read.values()), read


def test_the_runner_sees_faults(tmp_path: Path) -> None:
    """A parser that fails, hangs, writes elsewhere, or tells a novel is reported as such."""
    script = f"""
import sys, pathlib, time
sys.path[:0] = [{str(RUN.parent)!r}]
import making, run, parsers
from evaltk.errors import EvaltkError
run.SECONDS, run.WAIT = 1, 2
def long(path): raise EvaltkError(wanted="x " * 2500, got="y")
def hangs(path):
    while True: pass
def writes(path): pathlib.Path({str(tmp_path / "out")!r}).write_text("x")
def waits(path): time.sleep(9)
reads = dict(fails=lambda path: 1 // 0, hangs=hangs, waits=waits, long=long, writes=writes, good=len)
make = lambda rng, path: path.write_bytes(b"x")
parsers.PARSERS = {{
    name: lambda n, folder, read=read: making.Parser(name=n, make=make, read=read if n != "good" else str)
    for name, read in reads.items()
}}
sys.exit(run.main(["--count", "1"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    faults = {one["parser"]: list(one["faults"]) for one in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1, done.stderr
    kinds = {
        "fails": "ZeroDivisionError",
        "hangs": "more than 1 s",
        "waits": "more than 1 s",
        "long": "a long error",
        "writes": "acted",
    }
    assert faults.pop("good") == [] and faults.keys() == kinds.keys()
    assert all(kinds[name] in found[0] for name, found in faults.items()), faults


@pytest.mark.fuzz
@pytest.mark.parametrize("name", list(parsers.PARSERS))
def test_ten_thousand_mutants(name: str) -> None:
    count, seed = os.environ.get("FUZZ_COUNT", "10000"), os.environ.get("FUZZ_SEED", "1")
    for told in run(name, "--count", count, "--seed", seed, timeout=7200):
        print(json.dumps(told))
        assert not told["faults"], told["faults"]
