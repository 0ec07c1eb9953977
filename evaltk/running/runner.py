"""Run cells: what is done is skipped, what other runs hold is left to them, and a failed cell stops no other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evaltk import launchers, progress, results
from evaltk.claims import Claim, Claims
from evaltk.errors import StorageError
from evaltk.progress import log
from evaltk.running import benching, cells, failures
from evaltk.running.benching import bench_of, bench_with, described, measured, wanted
from evaltk.running.cells import Cell
from evaltk.running.failures import Failure
from evaltk.running.planning import Job, Plan, identify, jobs, known_protocol, stamp
from evaltk.types import Result, digest

if TYPE_CHECKING:
    from evaltk.bench import Bench, Need
    from evaltk.data.images import Split

__all__ = [
    "Job", "Plan", "Ran", "bench_of", "bench_with", "described", "identify", "jobs", "known_protocol", "measured",
    "run", "run_cells", "stamp", "token", "wanted",
]  # fmt: skip

Report = Callable[[Job, Result, bool], None]
Standing = Literal["done", "ours", "theirs", "failed"]
PASSES = "passes"  # the folder of the cache in which extractions are claimed
POLL = 0.2, 5.0  # seconds between two looks at what others hold, at first and at most


@dataclass(slots=True, kw_only=True)
class Ran:
    """How far a run is.

    Attributes:
        total: cells. made: results of this run. before: results that were there, or that another run made meanwhile.
        failures: of this run, or of another meanwhile. errors: what this run's cells failed with.
    """

    total: int
    made: int = 0
    before: int = 0
    failures: list[Failure] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    @property
    def number(self) -> int:
        """Of the cell that is next, from 1."""
        return min(self.total, self.made + self.before + len(self.failures) + 1)

    @property
    def left(self) -> int:
        """Cells without result or failure so far."""
        return self.total - self.made - self.before - len(self.failures)

    def text(self) -> str:
        """In a line."""
        parts = [f"{self.made} new", f"{self.before} there before"]
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        parts += [f"{self.left} left"] if self.left else []
        return f"{self.total} result{'' if self.total == 1 else 's'}: {', '.join(parts)}"

    def one_error(self) -> Exception | None:
        """The error, where all cells failed and for the same reason."""
        same = len(self.errors) == self.total and len({str(error) for error in self.errors}) == 1
        return self.errors[0] if same else None


def run(plan: Plan, *, report: Report) -> None:
    """Run what is not done; `report(job, result, skipped)` is called for each job in order, on the main process.

    Raises: EvaltkError: the first error a user can fix; results written before it are kept.
    """
    todo = cells.of_plan(plan)
    run_cells(todo, report=report, ran=Ran(total=len(todo)), fail_fast=True)


def run_cells(todo: Sequence[Cell], *, report: Report, ran: Ran, fail_fast: bool = False) -> None:
    """Run what is not done, and wait for what other runs are at.

    Args:
        report: (job, result, skipped) is called for each cell with a result, on the main process.
        ran: is kept up to date, so that an interrupted run can tell.
        fail_fast: the first error is raised; so it is with several processes (torchrun), which depend on each other.

    Raises: StorageError: nothing can be written any more.
    """
    with Claims() as claims:
        runner = _Runner(claims=claims, report=report, ran=ran, fail_fast=fail_fast or _several())
        runner.known = {cell.job.path: token(cell) for cell in todo}
        pause, told = POLL[0], False
        folders, caches = {cell.job.path.parent for cell in todo}, {cell.plan.cache for cell in todo}
        while True:
            left: list[Cell] = []
            nets: dict[object, list[Cell]] = {}
            for cell in todo:
                nets.setdefault(cell.net, []).append(cell)
            for mine in nets.values():
                left += runner.net(mine)
            if not left:
                break
            pause = POLL[0] if len(left) < len(todo) else min(2 * pause, POLL[1])
            if not told and _is_main():
                told = True
                who = claims.holder(left[0].job.path) or "another run"
                log.info("waiting for %d results that other runs are at (%s)", len(left), who)
            time.sleep(pause)
            todo = left
        if _is_main():
            for folder in folders:
                claims.tidy(folder)
            for cache in caches:
                claims.tidy(cache / PASSES, undone=True)


def token(cell: Cell) -> str:
    """Tells the record of a cell's failure from others; empty where there is none."""
    failure = failures.read(cell.job.path)
    return failure.token if failure else ""


@dataclass(slots=True, kw_only=True)
class _Runner:
    """One call of `run_cells`. known: {cell: its failure of before}, which is no reason not to try again."""

    claims: Claims
    report: Report
    ran: Ran
    fail_fast: bool
    known: dict[Path, str] = field(default_factory=dict)

    def net(self, mine: Sequence[Cell]) -> list[Cell]:
        """Run the cells of one net, dataset by dataset. Returns: those that other runs are at."""
        held: dict[str, Claim] = {}
        theirs: list[Cell] = []
        bench: Bench | Exception | None = None
        for dataset in {id(cell.job.dataset): cell.job.dataset for cell in mine}.values():
            here = [cell for cell in mine if cell.job.dataset is dataset]
            try:
                stands = _agreed([self.standing(cell, held) for cell in here] if _is_main() else [])
                ours = [cell for cell, stand in zip(here, stands, strict=True) if stand == "ours"]
                if ours and bench is None:
                    with progress.about(f"[{self.ran.number}/{self.ran.total}] {ours[0].job.name}"):
                        bench = self.loaded(mine, ours)
                made = self.pair(ours, bench, held)
                for cell, stand in zip(here, stands, strict=True):
                    if stand == "theirs":
                        theirs.append(cell)
                    elif stand == "failed":
                        self.failed_elsewhere(cell)
                    else:
                        with progress.about(f"[{self.ran.number}/{self.ran.total}] {cell.job.name}"):
                            outcome = next(made) if stand == "ours" else results.read(cell.job.path)
                        if isinstance(outcome, benching.TakenOver):
                            theirs.append(cell)
                        else:
                            self.tell(cell, outcome, stand)
                        if claim := held.pop(str(cell.job.path), None):
                            self.claims.release(claim)
            finally:
                for claim in held.values():
                    self.claims.release(claim)
                held.clear()
        return theirs

    def standing(self, cell: Cell, held: dict[str, Claim]) -> Standing:
        """How a cell stands; one that is ours is claimed and can be written. Raises: StorageError."""
        job, before = cell.job, _mark(cell.job.path)
        if not cell.wanted():
            return "done"
        failure = failures.read(job.path)
        if failure is not None and failure.token != self.known[job.path]:
            return "failed"
        claim = self.claims.take(job.path)
        if claim is None:
            return "theirs"
        held[str(job.path)] = claim
        if _mark(job.path) != before and not cell.wanted():  # made between the look and the claim
            return "done"
        results.prepare(job.path)
        return "ours"

    def loaded(self, mine: Sequence[Cell], ours: Sequence[Cell]) -> Bench | Exception:
        """The net, or why there is none."""
        plan = ours[0].plan
        try:
            if self.fail_fast:
                return bench_of(plan, [cell.job for cell in ours])
            device = benching.device_of(plan, [cell.job for cell in mine])
            return bench_with(plan, benching.checkpoint_of(plan, ours[0].job), device)
        except Exception as error:
            if self.fail_fast:
                raise
            return error

    def pair(
        self, ours: Sequence[Cell], bench: Bench | Exception | None, held: Mapping[str, Claim]
    ) -> Iterator[Result | Exception | None]:
        """The results or errors of one net on one dataset, in order. held: the claims on them."""
        errors: dict[int, Exception] = {}
        for number, cell in enumerate(ours):
            try:
                if isinstance(bench, Exception):
                    raise bench
                if bench is not None:
                    known_protocol(cell.job.protocol).check_checkpoint(bench.checkpoint)
            except Exception as error:
                if self.fail_fast:
                    raise
                errors[number] = error
        good = [cell.job for number, cell in enumerate(ours) if number not in errors]
        made = iter(())
        if good and bench is not None and not isinstance(bench, Exception):
            made = benching.outcomes(  # type: ignore[assignment]
                ours[0].plan,
                good,
                bench,
                carry_on=not self.fail_fast,
                alone=self.alone,
                ours=None if _several() else lambda job: not held[str(job.path)].lost(),
            )
        for number in range(len(ours)):
            yield errors[number] if number in errors else next(made)[1]

    def tell(self, cell: Cell, outcome: Result | Exception | None, stand: Standing) -> None:
        """Count and report what became of a cell."""
        job = cell.job
        if isinstance(outcome, Exception):
            if failures.hopeless(outcome):
                raise outcome
            failure = failures.of(outcome, checkpoint=job.name, protocol=job.protocol, dataset=job.dataset.name)
            failures.write(job.path, failure)
            self.known[job.path] = failure.token
            self.ran.failures.append(failure)
            self.ran.errors.append(outcome)
            if self.ran.total > 1:
                log.info("failed, the others go on: %s", failure.line())
            log.debug("where it was raised:", exc_info=outcome)
        elif _is_main() and outcome is not None:
            failures.remove(job.path)
            self.ran.made += stand == "ours"
            self.ran.before += stand == "done"
            self.report(job, outcome, stand == "done")

    def failed_elsewhere(self, cell: Cell) -> None:
        failure = failures.read(cell.job.path)
        if failure is not None:
            self.ran.failures.append(failure)
            log.info("failed in another run: %s", failure.line())

    @contextmanager
    def alone(self, bench: Bench, split: Split, needs: Sequence[Need]) -> Iterator[None]:
        """Inside, no other run extracts the same; waits for one that does."""
        place = _pass(bench, split, needs)
        claim: Claim | None = None
        pause, told = POLL[0], False
        while True:
            go_on = place is None or (_is_main() and _extracted(bench, split, needs))
            if place is not None and not go_on and _is_main():
                try:
                    claim = self.claims.take(place)
                    go_on = claim is not None
                except StorageError:  # which the extraction meets, too, unless nothing is left for it to write
                    go_on = True
            if _agreed([go_on])[0]:
                break
            if not told and place is not None and _is_main():
                told = True
                log.info("waiting for features that another run extracts (%s)", self.claims.holder(place))
            time.sleep(pause)
            pause = min(2 * pause, POLL[1])
        try:
            yield
        finally:
            if claim is not None:
                self.claims.release(claim)


def _pass(bench: Bench, split: Split, needs: Sequence[Need]) -> Path | None:
    """What stands for the extraction of a split with a net; None where nothing is extracted."""
    if not needs:
        return None
    net = (bench.backbone.digest, bench.backbone.precision, bench.backbone.position)
    return bench.cache / PASSES / digest([*net, split.fingerprint, split.stamp, split.name])[:32]


def _extracted(bench: Bench, split: Split, needs: Sequence[Need]) -> bool:
    """Whether all features are in the cache."""
    from evaltk.features import extraction as features
    from evaltk.features.shards import Entry

    keys = [features.key_of(bench.backbone, split, bench.transform(need.view), need.recipe) for need in needs]
    return all(Entry(root=bench.cache, key=key).done() for key in keys)


def _mark(path: Path) -> tuple[int, int] | None:
    """Changes when a file is written anew."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_ino, told.st_mtime_ns


def _agreed(value: list[Any]) -> list[Any]:
    """Rank 0's `value` on every process: each looks at another moment, and rank 0 may have written a result since."""
    if not _several():  # no need to wait for the import of torch
        return value
    from evaltk import distributed

    return list(distributed.broadcast_object(value))  # type: ignore[call-overload]


def _several() -> bool:
    """Whether torchrun started more than this process."""
    return launchers.place(os.environ) is not None


def _is_main() -> bool:
    if not _several():
        return True
    from evaltk import distributed

    return distributed.is_main()
