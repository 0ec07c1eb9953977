"""Progress bars and the only logging setup. Everything goes to stderr; stdout is for results."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
log = logging.getLogger("evaltk")


def configure(*, verbose: bool = False) -> None:
    """Send evaltk's log messages to stderr; called once by the command line, never at import."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("evaltk: %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


@contextmanager
def bar(title: str, total: int, *, done: int = 0, unit: str = "images") -> Iterator[Advance]:
    """A progress bar with rate and time left; yields `advance(n)`. Silent if stderr is not a terminal.

    Args:
        done: items finished by an earlier run; they move the bar but do not count towards the rate.
    """
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import Task as RichTask

    class Rate(TextColumn):
        def render(self, task: RichTask):  # type: ignore[no-untyped-def]
            speed = task.finished_speed or task.speed or 0.0
            return type(super().render(task))(f"{speed:,.0f} {unit}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(""),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda n: progress.advance(task, n)
