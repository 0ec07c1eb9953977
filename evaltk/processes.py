"""How commands and their worker processes end: signals become exceptions, and workers do not outlive their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
LOOK = 1.0  # seconds between two looks for the parent


class Ended(BaseException):
    """A signal asked the command to end; as KeyboardInterrupt, nothing but the command line catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name, self.exit_code = signal.Signals(number).name, 128 + number


def _end(number: int, frame: FrameType | None) -> None:
    for other in ENDING:
        signal.signal(other, signal.SIG_DFL)  # a second signal ends the process at once
    raise Ended(number)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise `Ended`, unless they are ignored (nohup) or handled already.

    Outside the main thread handlers cannot be set: none is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mine = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def start_worker(worker: int = 0) -> None:
    """Set up a worker process: it ends when its parent has died, even by SIGKILL, and leaves Ctrl-C to its parent.

    Without this a worker whose parent was killed waits for ever for a reader of what it made.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(os.getppid(), multiprocessing.parent_process()), daemon=True).start()


def _watch(parent: int, process: multiprocessing.process.BaseProcess | None) -> None:
    # Under forkserver the parent in the system's sense is the server.
    while os.getppid() == parent and (process is None or process.is_alive()):
        time.sleep(LOOK)
    os._exit(1)
