"""SIGTERM and SIGUSR1, which schedulers send before they end a job, and Ctrl-C: handled by the loop, not workers."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from evaltk import processes

REQUEUE = 75  # EX_TEMPFAIL: checkpoint saved after a signal; the same command resumes
INTERRUPTED = 128 + signal.SIGINT  # checkpoint saved after Ctrl-C
HANDLED = [signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


class StopFlag:
    """`requested` turns true when a signal arrives; a second Ctrl-C does not wait for the step to end.

    Attributes:
        code: with which the process is to exit then.
    """

    requested = False
    code = REQUEUE

    def handler(self, number: int, frame: FrameType | None) -> None:
        """For `signal.signal`."""
        if number == signal.SIGINT:
            if self.requested:
                raise KeyboardInterrupt
            self.code = INTERRUPTED
        self.requested = True


def ignore(worker: int) -> None:
    """Set up a worker: schedulers signal all of a job's processes, and the current step still needs its workers."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
    processes.start_worker()


@contextlib.contextmanager
def handle_signals() -> Iterator[StopFlag]:
    """Within the block, either signal sets the flag. Outside the main thread handlers cannot be set: none is."""
    flag = StopFlag()
    try:
        previous = {number: signal.signal(number, flag.handler) for number in HANDLED}
    except ValueError:  # not in the main thread
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
