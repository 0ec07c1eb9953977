"""What `evaltk run` does with cells: it runs them, tells of each result, and at the end prints tables and failures."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaltk import launchers
from evaltk.cli import _scores_log, _shown
from evaltk.errors import EvaltkError, RunError
from evaltk.processes import Ended

if TYPE_CHECKING:
    from evaltk.running.cells import Cell
    from evaltk.running.planning import Job
    from evaltk.running.runner import Ran
    from evaltk.types import Result


class Session:
    """One command. options: of `evaltk run`. shown: the results so far. trajectory: whether to print its table, too."""

    def __init__(self, options: Any) -> None:
        from evaltk.running.runner import Ran

        self.options = options
        self.trajectory = options.every_checkpoint or options.watch
        self.shown: dict[Path, Result] = {}
        self.ran: Ran = Ran(total=0)
        self.tracker = _scores_log.begin(options.log, options.out)

    def run(self, todo: Sequence[Cell]) -> None:
        """Run cells. Raises: EvaltkError: the error, where all failed for the same reason, or nothing can go on."""
        from evaltk.running import remembered, runner

        self.ran.total += len(todo)
        try:
            with _processes(self.options.device):
                runner.run_cells(todo, report=self.report, ran=self.ran, fail_fast=self.options.fail_fast)
        except (KeyboardInterrupt, Ended, EvaltkError):
            self.summary()
            self._close()
            raise
        finally:
            remembered.remember(cell for cell in todo if cell.job.path.exists())
        if (error := self.ran.one_error()) is not None:
            raise error

    def collect(self, cell: Cell, *, skipped: bool, known: str, end: Mapping[str, str]) -> None:
        """Tell of a cell that was run elsewhere. known: of its failure before. end: {path: what became of its job}."""
        from evaltk import results
        from evaltk.running import failures, runner

        job = cell.job
        self.ran.total += 1
        if skipped or job.done():
            self.ran.before += skipped
            self.ran.made += not skipped
            self.report(job, results.read(job.path), skipped)
            return
        failure = failures.read(job.path)
        if failure is None or runner.token(cell) == known:
            error = RunError(wanted="a result", got=end.get(str(job.path), "none"), where=job.path, do="run it again")
            failure = failures.of(error, checkpoint=job.name, protocol=job.protocol, dataset=job.dataset.name)
            failures.write(job.path, failure)
        self.ran.failures.append(failure)

    def report(self, job: Job, result: Result, skipped: bool) -> None:
        """Tell of a result."""
        from evaltk.progress import log
        from reports.tables.view import headline

        log.info("%s %s: %s", "done before:" if skipped else "wrote", job.path, headline(result))
        self.shown[job.path] = result
        if self.tracker is not None:
            self.tracker.write(result)
        if self.options.json:
            print(json.dumps({"path": str(job.path), "skipped": skipped} | dataclasses.asdict(result)), flush=True)

    def finish(self) -> int:
        """Print tables and what failed. Returns: the exit code: 1 for a bug, 2 for another failure."""
        self._close()
        if self.shown and not self.options.json:
            pairs = list(self.shown.items())
            _shown.print_tables(pairs, trajectory=self.trajectory)
            _shown.say_next(self.options.out, pairs)
        self.summary()
        return 1 if any(failure.bug for failure in self.ran.failures) else 2 if self.ran.failures else 0

    def summary(self) -> None:
        """Say how far it came, where that is not plain to see: a line, and one for each failure."""
        from evaltk.progress import log

        if (self.ran.total > 1 or self.options.launcher) and (self.ran.failures or self.ran.left):
            for failure in self.ran.failures:
                log.error("failed: %s", failure.line())
                if failure.trace:
                    log.error("%s", failure.trace)
            log.error("%s", self.ran.text())

    def _close(self) -> None:
        if self.tracker is not None:
            self.tracker.close()


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
