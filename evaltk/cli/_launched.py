"""`evaltk run --launcher slurm`: an array job of the cells, followed until it ends, by submitit."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaltk import machine
from evaltk.cli._resources import Launcher, Resources
from evaltk.errors import SettingsError
from evaltk.progress import log

if TYPE_CHECKING:
    from evaltk.cli._session import Session
    from evaltk.running.cells import Cell

FOLDER = "slurm"  # below --out: submitit's files and the output of the jobs
POLL = 5.0  # seconds between two looks at the jobs
SAID_EVERY = 60.0  # seconds between two lines on how far they are


class Work:
    """Some cells of a command, as a job runs them. argv: of `evaltk run`. paths: where their results go."""

    def __init__(self, argv: Sequence[str], paths: Sequence[str]) -> None:
        self.argv, self.paths = list(argv), list(paths)

    def __call__(self) -> int:
        """Run them; what fails is recorded. Returns: the exit code, which nobody reads."""
        from evaltk import processes, progress
        from evaltk.cli import _asked
        from evaltk.cli._session import Session

        progress.configure()
        asked = _asked.asked(self.argv, "run", None)
        mine = set(self.paths)
        session = Session(dataclasses.replace(asked.options, launcher=None, log=None, json=False))
        with processes.ended_by_signals():
            session.run([cell for cell in _asked.cells_of(asked) if str(cell.job.path) in mine])
        return session.finish()

    def checkpoint(self) -> Any:
        """What goes on where the scheduler ends the job before its time: the same, which skips what is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Work(self.argv, self.paths))


def launch(argv: Sequence[str], todo: Sequence[Cell], session: Session) -> int:
    """Run the cells in jobs, wait for these, and tell of the results as if they had been run here.

    Returns: the exit code. Raises: SettingsError: no submitit, no Slurm.
    """
    from evaltk.running import runner

    launcher: Launcher = session.options.launcher
    check(launcher)
    resources: Resources = session.options.slurm_resources
    left = [cell for cell in todo if cell.wanted()]
    before = {cell.job.path: runner.token(cell) for cell in left}
    ends: dict[str, str] = {}
    if left:
        shares = _shares(left, resources, launcher)
        jobs = _submit(argv, shares, session, resources, launcher)
        try:
            _follow(jobs, left, before)
        except KeyboardInterrupt:
            log.error(
                "the jobs go on: %s ends them; the same command takes up what they leave", _cancel(jobs, launcher)
            )
            raise
        ends = _ends(jobs, shares)
    for cell in todo:
        session.collect(cell, skipped=cell.job.path not in before, known=before.get(cell.job.path, ""), end=ends)
    return session.finish()


def check(launcher: Launcher) -> None:
    """Raises: SettingsError: submitit is not installed, or there is no Slurm here."""
    if importlib.util.find_spec("submitit") is None:
        wanted, do = "submitit, which is an extra of evaltk", "pip install 'evaltk[slurm]'"
        raise SettingsError(wanted=wanted, got="an environment without", where="--launcher", do=do)
    if launcher == "slurm" and shutil.which("sbatch") is None:
        do = "log in to a node of the cluster, or --launcher local"
        raise SettingsError(wanted="Slurm's sbatch", got="none", where="--launcher slurm", do=do)


def _shares(left: Sequence[Cell], resources: Resources, launcher: Launcher) -> list[list[str]]:
    """The cells dealt to jobs: those of a net and a dataset together, neighbours in one job."""
    pairs: dict[object, list[str]] = {}
    for cell in left:
        pairs.setdefault((cell.net, cell.job.dataset.name), []).append(str(cell.job.path))
    most = resources.jobs or (100 if launcher == "slurm" else machine.usable_cores())
    count = max(1, min(most, len(pairs)))
    groups = list(pairs.values())
    bounds = [round(n * len(groups) / count) for n in range(count + 1)]
    return [[path for group in groups[a:b] for path in group] for a, b in itertools.pairwise(bounds)]


def _submit(
    argv: Sequence[str], shares: Sequence[list[str]], session: Session, resources: Resources, launcher: Launcher
) -> list[Any]:
    import submitit

    folder = session.options.out / FOLDER
    executor = submitit.AutoExecutor(folder=folder / "%j", cluster=launcher)
    try:
        executor.update_parameters(**resources.parameters(launcher))
        with executor.batch():
            jobs = [executor.submit(Work(argv, share)) for share in shares]
    except (ValueError, RuntimeError, NameError, submitit.core.utils.FailedJobError) as error:
        got = (str(error).strip().splitlines() or [type(error).__name__])[-1][:160]
        do = "see --slurm.partition, --slurm.account and the like"
        raise SettingsError(
            wanted="jobs that the cluster takes", got=got, where=f"--launcher {launcher}", do=do
        ) from error
    log.info("%d jobs submitted (%s); their output is in %s", len(jobs), jobs[0].job_id, folder)
    return jobs


def _follow(jobs: Sequence[Any], left: Sequence[Cell], before: dict[Path, str]) -> None:
    """Wait until all jobs have ended; say now and then how far they are."""
    from evaltk.running import runner

    told = time.monotonic()
    while not all(job.done() for job in jobs):
        time.sleep(POLL)
        if time.monotonic() - told > SAID_EVERY:
            told = time.monotonic()
            done = sum(cell.job.path.exists() for cell in left)
            failed = sum(runner.token(cell) not in ("", before[cell.job.path]) for cell in left)
            log.info("%d of %d results, %d failed, %d jobs left", done, len(left), failed, _open(jobs))


def _open(jobs: Sequence[Any]) -> int:
    return sum(not job.done() for job in jobs)


def _ends(jobs: Sequence[Any], shares: Sequence[list[str]]) -> dict[str, str]:
    """{path: what became of the job of a cell}, to be said where it left neither result nor failure."""
    return {
        path: f"its job {job.job_id} ended without it ({job.state}); see {job.paths.stderr}"
        for job, share in zip(jobs, shares, strict=True)
        for path in share
    }


def _cancel(jobs: Sequence[Any], launcher: Launcher) -> str:
    ids = " ".join(dict.fromkeys(str(job.job_id).partition("_")[0] for job in jobs))
    return f"scancel {ids}" if launcher == "slurm" else f"kill {ids}"
