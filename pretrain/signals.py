"""Signals that schedulers send before they end a job, and Ctrl-C: handled by the loop, not workers.

While steps are taken a signal sets a flag, and the loop writes a checkpoint. Before and after that there is nothing to
write, and the command ends at once, with the same exit code.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

from evaltk import processes
from evaltk.processes import REQUEUE

INTERRUPTED = 128 + signal.SIGINT  # checkpoint saved after Ctrl-C
NOTHING_NEW = "; nothing was trained since the last checkpoint: the same command goes on"


class StopFlag:
    """`requested` turns true when a signal arrives; a second Ctrl-C does not wait for the step to end.

    Attributes:
        code: with which the process is to exit then. name: of the signal, for the log.
    """

    def __init__(self) -> None:
        self.requested, self.code, self.name = False, REQUEUE, ""
        self._stepping, self._since = False, 0.0

    def handler(self, number: int, frame: FrameType | None) -> None:
        """For `signal.signal`."""
        now = time.monotonic()
        if not self.requested:
            self.requested, self._since, self.name = True, now, signal.Signals(number).name
            self.code = INTERRUPTED if number == signal.SIGINT else REQUEUE
            if not self._stepping:
                raise processes.Ended(number, exit_code=self.code, kept=NOTHING_NEW)
        elif number == signal.SIGINT:
            if now - self._since > processes.AGAIN:
                raise KeyboardInterrupt
            self.name, self.code = "SIGINT", INTERRUPTED  # torchrun's SIGTERM for the same Ctrl-C may come first

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Inside, a signal waits for the end of the step."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False


def ignore(worker: int) -> None:
    """Set up a worker: schedulers signal all of a job's processes, and the current step still needs its workers."""
    for number in processes.STOPPING:
        signal.signal(number, signal.SIG_IGN)
    processes.start_worker()


@contextlib.contextmanager
def handle_signals() -> Iterator[StopFlag]:
    """Within the block, signals set the flag or end the command; those that are ignored (nohup) stay so.

    Outside the main thread handlers cannot be set: none is.
    """
    flag = StopFlag()
    previous = {}
    try:
        for number in processes.STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, flag.handler)
    except ValueError:  # not in the main thread
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
