"""Evaluate checkpoints on datasets; finished results are skipped.

Examples:
    evaltk run dino_vits16 --protocols knn linear --data imagenet=/data/imagenet
    evaltk run mine.pth pixels:32 --data cifar10=/data/cifar10 --knn.k 10 20
    evaltk run mine.pth --data photos:imagefolder=~/photos --limit 500
    evaltk run suite.toml --device cuda
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaltk import launchers
from evaltk.cli import _asked
from evaltk.errors import EvaltkError
from evaltk.processes import Ended

if TYPE_CHECKING:
    from evaltk.running.runner import Job, Ran
    from evaltk.types import Result


def main(argv: list[str]) -> int:
    """Run, print tables of the results to stdout, and log where they were written."""
    asked = _asked.asked(argv, "run", __doc__)
    todo = _asked.cells_of(asked)
    from evaltk.running import runner

    options, ran = asked.options, runner.Ran(total=len(todo))
    shown: list[tuple[Path, Result]] = []

    def report(job: Job, result: Result, skipped: bool) -> None:
        from evaltk.progress import log

        log.info("%s %s: %s", "done before:" if skipped else "wrote", job.path, headline(result))
        shown.append((job.path, result))
        if options.json:
            print(json.dumps({"path": str(job.path), "skipped": skipped} | dataclasses.asdict(result)), flush=True)

    try:
        with _processes(options.device):
            runner.run_cells(todo, report=report, ran=ran, fail_fast=options.fail_fast)
    except (KeyboardInterrupt, Ended, EvaltkError):
        _summary(ran)
        raise
    if (error := ran.one_error()) is not None:
        raise error
    if shown and not options.json:
        print_tables(shown)
    _summary(ran)
    return 1 if any(failure.bug for failure in ran.failures) else 2 if ran.failures else 0


@contextlib.contextmanager
def _processes(device: str) -> Iterator[None]:
    """Joins the other processes of torchrun."""
    if launchers.place(os.environ) is None:
        yield
        return
    from evaltk import distributed
    from evaltk.machine import resolve_device

    with distributed.process_group(resolve_device(device)):
        yield


def _summary(ran: Ran) -> None:
    """Say how far it came, where that is not plain to see: a line, and one for each failure."""
    from evaltk.progress import log

    if ran.total > 1 and (ran.failures or ran.left):
        for failure in ran.failures:
            log.error("failed: %s: %s", failure.title(), failure.message)
            if failure.trace:
                log.error("%s", failure.trace)
        log.error("%s", ran.text())


def print_tables(pairs: Sequence[tuple[Path, Result]]) -> None:
    """Print the tables of results, for a terminal where stdout is one, else as Markdown; each footnote once."""
    from evaltk.progress import log
    from reports import paired
    from reports.formats import render
    from reports.tables.build import build_overview

    predictions = paired.beside(pairs, lambda error: log.warning("%s", error))
    tables = build_overview([result for _, result in pairs], predictions=predictions)
    sys.stdout.write(render.render_all(tables, "terminal" if sys.stdout.isatty() else "md"))


def headline(result: Result) -> str:
    """The result's headline score in words."""
    score = max(result.scores, key=lambda s: s.metric.endswith("best_k"), default=None)
    if score is None:
        return "no scores"
    at = ", ".join(f"{k} {v}" for k, v in score.at.items())
    return f"{score.metric} {100 * score.value:.2f} % of {score.n:,} ({at})"
