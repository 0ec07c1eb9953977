"""SIGTERM and SIGUSR1, as a scheduler sends them to a job that must go: answered by the loop, not by its workers."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

REQUEUE = 75  # EX_TEMPFAIL: stopped by a signal after a checkpoint; the same command goes on
_WANTED = [signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


def ignore(worker: int) -> None:
    """Set up a worker: a scheduler signals all of a job's processes, and the step under way needs its workers."""
    for number in _WANTED:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def answered(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `handler` on either signal inside the block; outside the main thread signals stay with their owner."""
    try:
        before = {number: signal.signal(number, handler) for number in _WANTED}
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
