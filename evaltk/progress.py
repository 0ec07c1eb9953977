"""Progress bars, log messages and how many of them are shown. All go to stderr; stdout is for results."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from evaltk.errors import SettingsError

Advance = Callable[[int], None]
log = logging.getLogger("evaltk")


QUIET, VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")


def configure(*, quiet: bool = False, verbose: bool = False) -> None:
    """Send the project's log messages to stderr; called once by the command line, never at import.

    Args:
        quiet: errors only, and no progress bars.
        verbose: debug messages too, each with the seconds since the start and the file it comes from.
    """
    handler = logging.StreamHandler(sys.stderr)
    where = " %(relativeCreated)d ms %(module)s" if verbose else ""
    handler.setFormatter(logging.Formatter(f"evaltk{where}: %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


def configured(argv: Sequence[str]) -> list[str]:
    """Configure by ``-q``/``--quiet`` and ``-v``/``--verbose``, wherever they stand; returns the other arguments.

    Raises: SettingsError: both.
    """
    quiet, verbose = (any(word in flags for word in argv) for flags in (QUIET, VERBOSE))
    configure(quiet=quiet and not verbose, verbose=verbose)
    if quiet and verbose:
        raise SettingsError(
            wanted="--quiet or --verbose", got="both", where="the command line", do="leave one of them out"
        )
    return [word for word in argv if word not in (*QUIET, *VERBOSE)]


def is_verbose() -> bool:
    """Whether ``--verbose`` was given."""
    return log.isEnabledFor(logging.DEBUG)


@contextmanager
def bar(title: str, total: int, *, done: int = 0, unit: str = "images") -> Iterator[Advance]:
    """A bar with the rate and the time left; yields `advance(n)`. Silent with --quiet and where stderr is no terminal.

    Args:
        done: items finished by an earlier run; they move the bar but do not count towards the rate.
    """
    if not (sys.stderr.isatty() and log.isEnabledFor(logging.INFO)):
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
