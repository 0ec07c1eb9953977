"""The default tests under other instruction sets, threads, hash seeds and versions, one setting after the other.

python tests/portable.py               every setting; exit 1 where a test fails under any
python tests/portable.py --slice       the numeric tests alone, under the plain instruction set and AVX2
python tests/portable.py --numbers     which numbers each setting changes, and by how much (benchmarks.numbers)

What acts where, seen by hashing products, sums and elementary functions of torch 2.15 and numpy 2.4 on an AMD EPYC:

- ATEN_CPU_CAPABILITY: normal draws, softmax, LayerNorm, attention. Not checked against the processor: avx512 where
  there is only AVX2 ends in an illegal instruction.
- ONEDNN_MAX_CPU_ISA: convolutions and GELU. A limit from above: what the processor lacks changes nothing.
- MKL_CBWR: COMPATIBLE changes all products and eigenvalues, AVX2 those in float64 and products with a vector.
- MKL_ENABLE_INSTRUCTIONS: nothing. MKL reads it on Intel's processors alone.
- OMP_NUM_THREADS: numpy's products and eigenvalues; torch's products of that size were the same.
- PYTHONHASHSEED: should change nothing anywhere, which is what it is here for.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = ROOT / ".venv-oldest"
ALONE: dict[str, dict[str, str]] = {
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "aten-avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "onednn-sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "onednn-avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "mkl-avx2": {"MKL_CBWR": "AVX2"},
    "mkl-sse42": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "threads-1": {"OMP_NUM_THREADS": "1"},
    "threads-2": {"OMP_NUM_THREADS": "2"},
    "threads-3": {"OMP_NUM_THREADS": "3"},
    "hash-0": {"PYTHONHASHSEED": "0"},
    "hash-1": {"PYTHONHASHSEED": "1"},
    "hash-12345": {"PYTHONHASHSEED": "12345"},
    "oldest": {},  # the lower bounds of pyproject.toml
}
# Each at least once. The environment that runs this file is the newest one: it is installed by constraints.txt.
TOGETHER = (
    ("aten-avx2", "threads-1", "hash-0"),
    ("aten-default", "threads-2", "hash-1"),
    ("aten-avx512", "threads-3", "hash-12345"),
    ("onednn-sse41", "mkl-compatible", "threads-3", "hash-12345"),
    ("onednn-avx2", "mkl-avx2", "threads-2", "hash-0"),
    ("onednn-avx512", "mkl-sse42", "threads-1", "hash-1"),
    ("oldest", "threads-1", "hash-0"),
    ("oldest", "aten-default", "threads-2", "hash-12345"),
)
SLICE = (("aten-default",), ("aten-avx2",))
AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl"}
# Flags and vendor that /proc/cpuinfo must name for a setting to do anything, or anything but crash.
NEEDS = {
    "aten-avx2": {"avx2", "fma"},
    "aten-avx512": AVX512,
    "onednn-avx2": {"avx2"},
    "onednn-avx512": AVX512,
    "mkl-avx2": {"avx2"},
    "mkl-sse42": {"GenuineIntel"},
}
# What decides digits; the rest of the tests is about files, words and flags.
NUMERIC = (
    *("evaltk/test_neighbours.py", "evaltk/test_fixed_order.py", "evaltk/test_affinity.py", "evaltk/test_logistic.py"),
    *("evaltk/test_mixture.py", "evaltk/test_duplicates.py", "evaltk/test_void.py", "evaltk/test_vmf.py"),
    *("evaltk/test_metrics_*.py", "evaltk/test_golden_nets.py", "evaltk/test_heads.py", "protocols/test_*.py"),
)
# The lowest version that can be installed, where it is not the bound itself.
INSTEAD = {"scipy": "1.11.1"}  # 1.11.0 was withdrawn
DEV = ("pytest", "pytest-xdist", "hypothesis", "mpmath", "faiss-cpu", "pyarrow")  # ruff and mypy are not run there


@dataclass(frozen=True)
class Ran:
    """What pytest told of one setting."""

    code: int
    seconds: float
    counts: Mapping[str, int]
    failed: tuple[str, ...]
    tail: str


def lacking(setting: Sequence[str]) -> set[str]:
    """What this machine's processor has not, of what the setting needs."""
    info = Path("/proc/cpuinfo")
    there = set(info.read_text().split()) if info.exists() else set()
    return set().union(*(NEEDS.get(name, set()) for name in setting)) - there


def environment(setting: Sequence[str]) -> dict[str, str]:
    """The environment of a setting: nothing that is varied here is inherited, and one thread where it says none."""
    varied = {key for of in ALONE.values() for key in of}
    kept = {key: value for key, value in os.environ.items() if key not in varied}
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    changed = {key: value for name in setting for key, value in ALONE[name].items()}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | changed


def oldest_pins() -> list[str]:
    """The lower bounds of pyproject.toml as exact versions: what runs the code, and what runs the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = []
    for wanted in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)", wanted).groups()  # type: ignore[union-attr]
        if wanted in project["dependencies"] or name in DEV:
            pins.append(f"{name}=={INSTEAD.get(name, bound)}")
    return pins


def python_of(setting: Sequence[str]) -> str:
    """The interpreter of a setting; the oldest environment is made where it is not there or has other versions."""
    if "oldest" not in setting:
        return sys.executable
    python, stamp, pins = OLDEST / "bin" / "python", OLDEST / ".pins", "\n".join(oldest_pins())
    if not stamp.exists() or stamp.read_text() != pins:
        print(f"installing the oldest versions allowed into {OLDEST.name}; this takes minutes", flush=True)
        venv.create(OLDEST, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins.splitlines()]
        subprocess.run(install, check=True)
        stamp.write_text(pins)
    return str(python)


def tested(setting: Sequence[str], paths: Sequence[str], workers: str) -> Ran:
    """Run the tests under a setting."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [python_of(setting), "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *paths]
        words += ["-n", workers, "--maxprocesses", "4", "--dist", "worksteal"]
        started = time.monotonic()
        ended = subprocess.run(words, cwd=ROOT, env=environment(setting), capture_output=True, text=True)
        seconds = time.monotonic() - started
        counts, failed = _read(report)
    return Ran(ended.returncode, seconds, counts, failed, "\n".join((ended.stdout + ended.stderr).splitlines()[-30:]))


def _read(report: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    if not report.exists():
        return {}, ()
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total = {key: sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "failures", "errors", "skipped")}
    bad = total["failures"] + total["errors"]
    counts = {"passed": total["tests"] - bad - total["skipped"], "failed": bad, "skipped": total["skipped"]}
    cases = (case for suite in suites for case in suite.iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    return counts, tuple(f"{c.get('classname')}::{c.get('name')}" for c in failed)


def test(settings: Sequence[Sequence[str]], paths: Sequence[str], workers: str) -> int:
    """One line a setting, then the names of what failed. Returns: 1 where anything did."""
    bad = False
    for setting in settings:
        name = " ".join(setting)
        if missing := lacking(setting):
            print(f"{name:<60} left out: the processor is not, or has not, {', '.join(sorted(missing))}", flush=True)
            continue
        ran = tested(setting, paths, workers)
        told = ", ".join(f"{n} {what}" for what, n in ran.counts.items()) or "no report"
        print(f"{name:<60} {told}, {ran.seconds:.0f} s", flush=True)
        for one in ran.failed:
            print(f"    {one}", flush=True)
        if ran.code and not ran.failed:
            print(ran.tail, flush=True)
        bad |= ran.code != 0
    return int(bad)


def numbers(out: Path, names: Sequence[str], measured: bool) -> int:
    """Measure the numbers under each setting by itself and print what it changes. Returns: 1 where a run failed."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import _numbers_compare as comparing

    told, bad = {}, False
    for name in ("plain", *names):
        setting = () if name == "plain" else (name,)
        if not measured and not lacking(setting):
            words = [python_of(setting), "-m", "benchmarks.numbers", str(out / name)]
            ended = subprocess.run(words, cwd=ROOT, env=environment(setting), capture_output=True, text=True)
            print(
                f"{name}: {'measured' if ended.returncode == 0 else ended.stderr[-2000:]}", file=sys.stderr, flush=True
            )
            bad |= ended.returncode != 0
        if name != "plain" and (out / name / "texts.json").exists():
            told[name] = comparing.compare(out / "plain", out / name)
    print("\n".join(comparing.matrix(told)))
    for name, (changes, words, _) in told.items():
        items = [change for change in changes if change.told]
        print(f"\n{name}: {len(items)} arrays of predictions differ, {len(words)} lines of texts")
        print("\n".join(f"  {c.name}: {c.elements} of {c.size}: {c.told}" for c in items))
    return int(bad)


def main(argv: list[str] | None = None) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slice", action="store_true", help="the numeric tests under two instruction sets")
    parser.add_argument("--numbers", action="store_true", help="what each setting changes, from benchmarks.numbers")
    parser.add_argument("--measured", action="store_true", help="with --numbers: tell what lies in --out already")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "numbers", help="folder of the numbers")
    parser.add_argument("--only", nargs="+", default=[], choices=[*ALONE], help="settings that have one of these")
    parser.add_argument("--workers", default="auto", help="of pytest (auto, at most 4)")
    asked = parser.parse_args(argv)
    if asked.numbers:
        return numbers(asked.out.resolve(), asked.only or [*ALONE], asked.measured)
    chosen = [s for s in (SLICE if asked.slice else TOGETHER) if not asked.only or {*asked.only} & {*s}]
    numeric = sorted(str(path.relative_to(ROOT)) for name in NUMERIC for path in (ROOT / "tests").glob(name))
    return test(chosen, numeric if asked.slice else [], asked.workers)


if __name__ == "__main__":
    raise SystemExit(main())
