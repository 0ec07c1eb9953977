"""A suite in one command against its protocols one after the other, each extracting for itself, k-NN once per k.

Environment variables name real inputs: BENCH_NET (a checkpoint that states all of itself, as `evaltk convert` writes),
BENCH_IMAGES (a folder with train/CLASS and test/CLASS) and BENCH_VIDEOS (DAVIS; their shorter side in BENCH_SIZE). By
default a random net sees noise. A net with prototypes (BENCH_HEAD=1) has these analysed, too.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from evaltk.models.backbone import Backbone
from evaltk.running import benching, cells, runner
from evaltk.running.runner import Plan
from evaltk.types import Result
from protocols import fewshot, knn, linear, prototypes, transfer, vos

NET = "random:vit_patch4_dim128_depth4_heads4_img32"
K = (10, 20, 100, 200)
CELLS = 300


def main() -> None:
    """Print the ratio of both, the share of forward passes, and what the runner itself takes per cell."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = os.environ.get("BENCH_IMAGES") or str(_noise(root / "images"))
        data = [f"images:imagefolder={images}"]
        data += [f"davis2017={path}"] if (path := os.environ.get("BENCH_VIDEOS")) else []
        plan = Plan(
            checkpoints=(os.environ.get("BENCH_NET", NET),), protocols={}, data=tuple(data), out=root, cache=root
        )
        apart, before = _timed(_alone(plan, root))
        together, now = _timed([dataclasses.replace(_together(plan), out=root / "one", cache=root / "one")])
        shares = f"{100 * now.wall / before.wall:.0f} % (processor time: {100 * now.cpu / before.cpu:.0f} %)"
        print(f"   apart {before.wall:.1f} s, in one command {now.wall:.1f} s: {shares} (wanted: at most 33)")
        print(f"   forward passes {100 * now.passes / now.wall:.0f} % of that (wanted: at least 85), ", end="")
        print(f"apart {100 * before.passes / before.wall:.0f} %")
        print(f"   same figures: {_figures(together).items() >= _figures(apart).items()}")
        for result in together:
            times: Any = result.made["seconds"]
            print(f"      {result.protocol}: {times['scoring']} s after {times['extracting']} s of extraction for all")
        _overhead(root / "overhead")


def _settings(protocol: str) -> Any:
    return {
        "knn": knn.Settings(k=K, choose=0),
        "linear": linear.Settings(fast=True),
        "fewshot": fewshot.PROTOCOL.settings(),
        "transfer": transfer.PROTOCOL.settings(),
        "prototypes": prototypes.PROTOCOL.settings(),
        "vos": vos.PROTOCOL.settings(size=int(os.environ.get("BENCH_SIZE", 480))),
    }[protocol]


def _together(plan: Plan) -> Plan:
    names = ["knn", "linear", "fewshot", "transfer"]
    names += ["prototypes"] if "BENCH_HEAD" in os.environ else []
    names += ["vos"] if len(plan.data) > 1 else []
    return dataclasses.replace(plan, protocols={name: _settings(name) for name in names})


def _alone(plan: Plan, root: Path) -> list[Plan]:
    """Each protocol, and each k, by itself, with nothing in the cache."""
    one = [{"knn": knn.Settings(k=(k,), choose=0)} for k in K]
    one += [{name: settings} for name, settings in _together(plan).protocols.items() if name != "knn"]
    return [
        dataclasses.replace(
            plan,
            protocols=protocols,
            data=plan.data[1:] if "vos" in protocols else plan.data[:1],
            out=root / f"apart-{n}",
            cache=root / f"apart-{n}",
        )
        for n, protocols in enumerate(one)
    ]


def _timed(plans: list[Plan]) -> tuple[list[Result], _Times]:
    """The results, and what they took."""
    found: list[Result] = []
    with _passes() as seconds:
        started, cpu = time.perf_counter(), _cpu()
        for plan in plans:
            runner.run(plan, report=lambda job, result, skipped: found.append(result))
        return found, _Times(time.perf_counter() - started, _cpu() - cpu, sum(seconds))


class _Times(NamedTuple):
    """Seconds by the clock, of processors (which other programs disturb less), and by the clock in forward passes."""

    wall: float
    cpu: float
    passes: float


def _cpu() -> float:
    """Processor seconds of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextmanager
def _passes() -> Iterator[list[float]]:
    """The seconds of each call of the net."""
    seconds: list[float] = []
    real = {name: getattr(Backbone, name) for name in ("features", "tokens")}

    def timed(name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            made = real[name](*given, **named)
            seconds.append(time.perf_counter() - started)
            return made

        return call

    try:
        for name in real:
            setattr(Backbone, name, timed(name))
        yield seconds
    finally:
        for name, method in real.items():
            setattr(Backbone, name, method)


def _figures(results: list[Result]) -> dict[tuple[str, ...], float]:
    return {
        (result.protocol, score.dataset, score.metric, str(sorted(score.at.items()))): score.value
        for result in results
        for score in result.scores
        if not score.metric.endswith(("best_k", "chosen_k"))  # of all k that were asked for at once
    }


def _overhead(root: Path) -> None:
    """What the runner takes per cell beside loading nets, extraction and scoring; memory after 50 and at the end."""
    nets = tuple(f"random:vit_patch8_dim24_depth1_heads3_img16@{seed}" for seed in range(CELLS // 3))
    protocols = {"knn": knn.Settings(k=(5,), choose=0)}
    plans = [
        Plan(
            checkpoints=nets,
            protocols=protocols,
            data=("digits",),
            limit=60,
            out=root,
            cache=root,
            seed=seed,
            workers=0,
        )
        for seed in range(3)
    ]
    todo = [cell for plan in plans for cell in cells.of_plan(plan)]
    work = [0.0]
    real = {name: getattr(benching, name) for name in ("checkpoint_of", "outcomes")}
    real_bench = runner.bench_with
    marks: list[int] = []

    def counted(method: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            made = method(*given, **named)
            work[0] += time.perf_counter() - started
            return made

        return call

    def outcomes(*given: Any, **named: Any) -> Iterator[Any]:
        made = real["outcomes"](*given, **named)
        step = counted(lambda: next(made, None))
        while (one := step()) is not None:
            yield one

    def report(job: Any, result: Any, skipped: bool) -> None:
        marks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    try:
        benching.checkpoint_of, benching.outcomes = counted(real["checkpoint_of"]), outcomes
        runner.bench_with = counted(real_bench)
        started = time.perf_counter()
        runner.run_cells(todo, report=report, ran=runner.Ran(total=len(todo)))
        seconds = time.perf_counter() - started
    finally:
        benching.checkpoint_of, benching.outcomes = real["checkpoint_of"], real["outcomes"]
        runner.bench_with = real_bench
    started = time.perf_counter()
    runner.run_cells(todo, report=report, ran=runner.Ran(total=len(todo)))
    again = time.perf_counter() - started
    scale = 1 if sys.platform == "darwin" else 1024
    grown = (statistics.fmean(marks[len(todo) - 5 : len(todo)]) - statistics.fmean(marks[48:53])) * scale / 1e6
    beside = 1e3 * (seconds - work[0]) / len(todo)
    print(f"   {len(todo)} cells of tiny nets: {beside:.1f} ms a cell beside the work (wanted: below 50),", end="")
    print(f" {1e3 * again / len(todo):.1f} ms once done; memory grows by {grown:.1f} MB after 50 cells")


def _noise(root: Path) -> Path:
    """1,200 + 400 small JPEG files of noise, each class with a colour of its own."""
    numbers = np.random.default_rng(0)
    for split, count in (("train", 120), ("test", 40)):
        for label in range(10):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            tint = np.random.default_rng(label).integers(0, 120, 3)
            for n in range(count):
                pixels = numbers.integers(0, 136, (32, 32, 3)) + tint
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n:03d}.jpg", quality=90)
    return root


if __name__ == "__main__":
    main()
