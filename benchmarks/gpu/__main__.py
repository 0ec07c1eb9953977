"""`make gpu`: what a card computes, and how fast, in under nine minutes: one JSON and one page.

    python -m benchmarks.gpu --out reports-gpu
    python -m benchmarks.gpu --device cpu --quick --no-tests   # a rehearsal, whose numbers mean nothing

Whatever fails is named and the rest goes on; the page says first what failed first. Files are rewritten after every
section, so that a call cut short leaves what it had.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import _evaluation, _training
from benchmarks.gpu._card import Clock, Limits, limits

MINUTES = 8.5
TESTS = 0.45  # of the time, at most
# What must be reached, on one H100 or H200.
WANTED = {
    ("train S/16 dino_vmf", "images_per_second"): (1800.0, "at least"),
    ("extract B/16 bf16", "share_of_bf16"): (0.6, "at least"),
    ("k-NN 50,000 x 1,281,167 x 384", "times_the_bare_product"): (2.0, "at most"),
}


# What the card reaches in the same call: as the page calls it, and in which unit.
LIMITS = {
    "bf16": ("product of bf16", "GFLOP/s"),
    "fp32": ("product of float32", "GFLOP/s"),
    "copy": ("copy on the device", "GB/s"),
    "send": ("copy to the device", "GB/s"),
}


class Report:
    """Everything found so far, on disk after every section."""

    def __init__(self, folder: Path, *, rehearsal: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, Any] = {"machine": {}, "limits": {}, "tests": {}, "cases": {}, "failed": []}
        self.found["rehearsal"] = rehearsal

    def add(self, section: str, name: str, value: Any) -> None:
        """Keep a value, and write."""
        self.found[section][name] = value
        self.write()

    def fail(self, name: str, error: str) -> None:
        """Keep what failed, in order, and write."""
        print(f"   FAILED {name}: {error.strip().splitlines()[-1][:200]}", flush=True)
        self.found["failed"].append({"name": name, "error": error[-4000:]})
        self.write()

    def write(self) -> None:
        """The JSON and the page."""
        (self.folder / "gpu.json").write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        (self.folder / "gpu.md").write_text(page(self.found), encoding="utf-8")


def figure(name: str, value: float | int) -> str:
    """One figure of a case, in words."""
    words = name.replace("_", " ")
    if name.startswith("share_of"):
        return f"{100 * value:.3g} % of {words.removeprefix('share of ')}"
    return f"{value:.4g} {words}" if isinstance(value, float) else f"{value} {words}"


def page(found: dict[str, Any]) -> str:
    """The page, in Markdown."""
    failed = found["failed"]
    lines = ["# GPU report", ""]
    if found["rehearsal"]:
        lines += ["**A rehearsal with small nets and inputs: the figures mean nothing.**", ""]
    if failed:
        last = failed[0]["error"].strip().splitlines()[-1][:300]
        lines += [f"**First failure: {failed[0]['name']}**: {last}", ""]
        lines += [f"- also failed: {one['name']}" for one in failed[1:]] + [""]
    lines += [f"- {key}: {value}" for key, value in found["machine"].items()]
    lines += [f"- {name}: {found['limits'][key] / 1e9:,.4g} {unit}" for key, (name, unit) in LIMITS.items()
              if key in found["limits"]]  # fmt: skip
    if found["tests"]:
        lines.append("- tests: " + ", ".join(f"{number} {kind}" for kind, number in found["tests"].items()))
    lines += ["", "| case | figures |", "|---|---|"]
    for name, values in sorted(found["cases"].items()):
        lines.append(f"| {name} | {', '.join(figure(k, v) for k, v in values.items())} |")
    lines += ["", "| wanted | found | met |", "|---|---|---|"]
    for (name, key), (bound, way) in WANTED.items():
        value = found["cases"].get(name, {}).get(key)
        met = "not measured" if value is None else "yes" if (value >= bound) == (way == "at least") else "no"
        told = "-" if value is None else f"{value:.4g}"
        lines.append(f"| {name}: {key.replace('_', ' ')} {way} {bound:g} | {told} | {met} |")
    cases = found["cases"]
    vmf, cosine = (cases.get(f"train S/16 {n}", {}).get("images_per_second") for n in ("dino_vmf", "dino, cosine"))
    if vmf and cosine:
        lines += ["", f"vMF trains at {100 * vmf / cosine:.1f} % of cosine's rate (wanted: 99 %)."]
    return "\n".join(lines) + "\n"


def machine(clock: Clock) -> dict[str, str]:
    """What it ran on."""
    names = ("torch", "torchvision", "timm", "numpy")
    told = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
    if clock.card:
        properties = torch.cuda.get_device_properties(clock.device)
        told |= {"card": properties.name, "memory": f"{properties.total_memory / 1e9:.0f} GB",
                 "cuda": str(torch.version.cuda), "cards": str(torch.cuda.device_count())}  # fmt: skip
    return told


def run_tests(report: Report, seconds: float, device: str) -> None:
    """The tests marked gpu, the most telling first, in a process of their own; what there is no time for is named."""
    command = [sys.executable, "-m", "pytest", "-vv", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", "-rfE",
               "tests/gpu"]  # fmt: skip
    spare = min(30.0, 0.2 * seconds)  # no test begins in the last seconds, so that the one under way can end
    until = time.time() + seconds - spare
    env = dict(os.environ, EVALTK_GPU=device, EVALTK_GPU_UNTIL=str(until), COLUMNS="200", PYTHONUNBUFFERED="1")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=env)
        output, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else str(error.stdout)
        code = -1
    (report.folder / "tests.txt").write_text(output, encoding="utf-8")
    report.found["tests"] = counts(output)
    if code:
        first = re.search(r"^(FAILED|ERROR) .*$", output, flags=re.MULTILINE)
        what = f"cut off in {under_way(output)}" if code == -1 else output[-1500:] + (f"\n{first[0]}" if first else "")
        report.fail("tests", what)
    if late := not_begun(output):
        report.fail(f"{len(late)} tests not begun", f"out of time: {', '.join(late)}")
    report.write()


def counts(output: str) -> dict[str, int]:
    """How many tests passed, failed, were skipped or had an error, by the lines of `pytest -vv`."""
    ended = re.findall(r"^\S+::\S.* (PASSED|FAILED|SKIPPED|ERROR)\b", output, flags=re.MULTILINE)
    found = {kind.lower(): ended.count(kind) for kind in ("PASSED", "FAILED", "SKIPPED", "ERROR") if kind in ended}
    late = len(not_begun(output))
    if late:
        found |= {"skipped": found["skipped"] - late, "not begun": late}
    return {kind: number for kind, number in found.items() if number}


def not_begun(output: str) -> list[str]:
    """The tests that there was no time for."""
    return re.findall(r"::(\S+) SKIPPED \(not begun", output)


def under_way(output: str) -> str:
    """The test that was under way as the tests were cut off."""
    named = re.findall(r"^\S+::(\S+)", output, flags=re.MULTILINE)
    return named[-1] if named else "collecting"


def all_cases(clock: Clock, measured: Limits) -> Iterator[tuple[str, Any]]:
    """Alternately of training and evaluation, so that a call cut short has some of each."""
    queues = [_training.cases(clock, measured), _evaluation.cases(clock, measured)]
    while queues:
        for queue in list(queues):
            case = next(queue, None)
            if case is None:
                queues.remove(queue)
            else:
                yield case


def main(argv: list[str] | None = None) -> int:
    """Test and measure. Returns: 0, 1 if something failed, 2 without a card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-report"), help="folder for gpu.json, gpu.md, tests.txt")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a rehearsal")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no section begins after so long")
    parser.add_argument("--quick", action="store_true", help="sizes for a rehearsal")
    parser.add_argument("--tests", action=argparse.BooleanOptionalAction, default=True, help="the tests marked gpu")
    a = parser.parse_args(argv)
    started = time.perf_counter()
    if a.device.startswith("cuda") and not torch.cuda.is_available():
        got = f"torch {torch.__version__} without a CUDA device"
        print(f"wanted a GPU; got {got}; where: --device; do: see nvidia-smi and CUDA_VISIBLE_DEVICES", file=sys.stderr)
        return 2
    clock, report = Clock(a.device, quick=a.quick), Report(a.out, rehearsal=a.quick)
    report.found["machine"] = machine(clock)
    measured = limits(clock)
    report.found["limits"] = dataclasses.asdict(measured)
    if a.tests:
        run_tests(report, TESTS * 60 * a.minutes, a.device)
    for name, work in all_cases(clock, measured):
        if time.perf_counter() - started > 60 * a.minutes - 20:
            report.fail(name, "not begun: out of time")
            continue
        print(f"== {name}", flush=True)
        try:
            report.add("cases", name, work())
            print(f"   {report.found['cases'][name]}", flush=True)
        except Exception:  # noqa: BLE001 (whatever it is, the others are measured)
            report.fail(name, traceback.format_exc())
        if clock.card:
            torch.cuda.empty_cache()
    report.write()
    print(page(report.found))
    return 1 if report.found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
