"""Trainings watched: their checkpoints are evaluated as they are written, the last one once the training has ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from evaltk.cli import _asked, watch
from evaltk.cli._asked import Asked
from evaltk.cli._session import Session
from evaltk.errors import EvaltkError, SettingsError
from evaltk.running import chosen

POLL = 5.0  # seconds between two looks at the folders
ENDED = ("finished", "diverged", "collapsed")  # states of a training that does not go on


def follow(argv: list[str], asked: Asked, doc: str | None) -> int:
    """Evaluate until all trainings among the checkpoints have ended. Returns: the exit code. Raises: EvaltkError."""
    session = Session(asked.options)
    runs = [run for words in asked.words for run in chosen.runs([words])]
    if not runs:
        got, do = ", ".join(asked.words)[:80], "evaltk run runs/NAME --watch"
        raise SettingsError(wanted="a training's folder", got=got, where="--watch", do=do)
    seen: object = None
    tried: set[Path] = set()
    while True:
        states = _states(runs)  # before the look at the checkpoints: what is there then is all of an ended one
        ended = all(state in ENDED for state in states)
        there = [path for run in runs for path in (chosen.kept(run) if ended else chosen.epochs(run))]
        if there != seen or ended:
            seen = there
            again = _asked.asked(argv, "run", doc, last=ended)
            todo = [cell for cell in _asked.cells_of(again) if cell.job.path not in tried] if again.any else []
            tried |= {cell.job.path for cell in todo}
            session.run(todo)
        if ended:
            return session.finish()
        _wait(runs, there, states)


def _wait(runs: Sequence[Path], there: Sequence[Path], states: Sequence[str]) -> None:
    from evaltk.progress import log

    told = ", ".join(f"{run.name} {state}" for run, state in zip(runs, states, strict=True))
    log.info("%d checkpoints so far; waiting for more (%s)", len(there), told)
    while [path for run in runs for path in chosen.epochs(run)] == there and _states(runs) == states:
        time.sleep(POLL)


def _states(runs: Sequence[Path]) -> list[str]:
    from reports.training import logs

    states = []
    for run in runs:
        try:
            states.append(watch.state(logs.read(run)))
        except EvaltkError:  # nothing in the log yet
            states.append("starting")
    return states
